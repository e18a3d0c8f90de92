"""`headstart doctor`: what is installed, what it would run on, which weights can be reached."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from headstart import environment
from headstart.storage import cache_dir

HUB = "huggingface.co"


def examine() -> dict[str, Any]:
    """Look at versions, devices, engines, caches and weights; nothing is downloaded or changed."""
    import torch

    from headstart.inference import choose_device
    from headstart.training import resolve_precision

    device = choose_device("auto")
    weights = os.environ.get("HEADSTART_WEIGHTS")
    return {
        "machine": environment.machine(),
        "versions": environment.versions(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        "precision": resolve_precision(device),
        "engine": "onnxruntime" if device.type == "cpu" else "eager",
        "cache": str(cache_dir()),
        "weights_setting": weights or "",
        "weights_found": _weights_in(weights),
        "hub": _reach(HUB),
    }


def _weights_in(setting: str | None) -> list[str]:
    if not setting:
        return []
    path = Path(setting).expanduser()
    if path.is_file():
        return [path.name]
    return sorted(file.name for file in path.glob("*.safetensors"))


def _reach(host: str) -> str:
    """Return "reached" or why not; one connection that carries nothing."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return "not asked (HF_HUB_OFFLINE is set)"
    try:
        with socket.create_connection((host, 443), timeout=3):
            return "reached"
    except OSError as error:
        return f"not reached ({error.strerror or error})"


def print_examination(found: dict[str, Any], *, as_json: bool) -> None:
    """Print what `examine` found."""
    if as_json:
        print(json.dumps(found))
        return
    machine = found["machine"]
    print(f"machine    {machine['processor']}, {machine['cores']} cores, {machine['memory_mb']} MB")
    name = f" ({found['device_name']})" if found["device_name"] else ""
    print(f"device     {found['device']}{name}, training in {found['precision']}")
    print(f"engine     {found['engine']} for what is frozen")
    print(f"cache      {found['cache']}")
    print(f"hub        {found['hub']}")
    listed = ", ".join(found["weights_found"]) or "no .safetensors there"
    setting = (
        f"{found['weights_setting']}: {listed}"
        if found["weights_setting"]
        else "HEADSTART_WEIGHTS is not set"
    )
    print(f"weights    {setting}")
    if found["hub"] != "reached" and not found["weights_found"]:
        print("           no pretrained weights can be reached: give --weights FILE, set HEADSTART_WEIGHTS,")
        print("           or train --from-scratch")
    print("versions   " + ", ".join(f"{name} {version}" for name, version in found["versions"].items()))
