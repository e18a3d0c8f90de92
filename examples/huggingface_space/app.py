"""Serves the model beside this file, with its page, where a Space expects it."""

from __future__ import annotations

import os
from pathlib import Path

from headstart.deploy.service import Models, Settings, bind, serve


def main() -> None:
    """Serve until the Space stops."""
    folder = Path(__file__).resolve().parent / "model"
    settings = Settings(token=os.environ.get("HEADSTART_TOKEN", ""), pictures=8, queue=64)
    with bind("0.0.0.0", int(os.environ.get("PORT", "7860"))) as bound:
        serve(Models({"model": folder}), settings, bound, ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    main()
