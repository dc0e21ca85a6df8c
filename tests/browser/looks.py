"""
Looks at every page in both sizes and themes. `PAGES` is what is looked at: the tests of quality take it, and so does
`make screenshots`. A new page is a line here.
"""

from __future__ import annotations

#: name -> address, of pages that show something worth seeing without further steps.
PAGES = {
    "dashboard": "/middleware/",
    "welcome": "/middleware/welcome",
    "requests": "/middleware/requests",
    "logs": "/middleware/logs",
    "settings": "/middleware/settings",
    "playground": "/middleware/playground",
    "providers": "/middleware/providers",
    "provider-kinds": "/middleware/providers/new",
    "provider-form": "/middleware/providers/new?kind=openai-compatible",
    "models": "/middleware/models",
    "aliases": "/middleware/models/aliases",
    "prices": "/middleware/models/prices",
    "price-form": "/middleware/models/prices/new",
    "route": "/middleware/models/route?model=gpt-5",
    "keys": "/middleware/keys",
    "keys-paste": "/middleware/keys/paste",
    "clients": "/middleware/clients",
    "client-form": "/middleware/clients/new",
    "swagger": "/middleware/swagger/",
}
#: Pages outside of the navigation.
BARE_PAGES = {"root": "/", "login": "/middleware/login", "nothing-here": "/middleware/nothing-here"}
