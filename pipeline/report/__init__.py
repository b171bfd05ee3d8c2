"""Tables and figures from the files that evaluation left."""
