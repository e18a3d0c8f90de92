"""The service: models behind HTTP, with a page for people. Imported only where something is served."""

from __future__ import annotations

from headstart.deploy.service.app import create_app
from headstart.deploy.service.hosting import Hosted, Models, load_hosted
from headstart.deploy.service.running import bind, serve
from headstart.deploy.service.settings import Settings

__all__ = ["Hosted", "Models", "Settings", "bind", "create_app", "load_hosted", "serve"]
