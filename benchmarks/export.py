"""Claim: an export says what the model says: probabilities within 0.0001 on 500 real pictures, four bodies.

From identical decoded pixels eager PyTorch, ONNX Runtime (in the small runtime) and torch.export agree within
0.0001; from the files' bytes the runtime without simplejpeg gives the same class wherever PyTorch's best two
lie more than 0.02 apart; int8 gives the same class in 98 % of the cases or is refused. Latency of one decoded
picture and sizes stand beside PyTorch's.

    python benchmarks/export.py
    python benchmarks/export.py --bodies mobilenetv2_100 --pictures 100      # a quick try

mobilenetv2_100 has its pretrained weights and a logistic regression on 260 pictures of flowers as its head;
for the others none are at hand, so their weights are seeded. What is done is kept in results/export/ and not
done again; --fresh begins anew. Pictures: 500 of flowers that the head was not fitted on, evenly spread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from folds import labelled_pictures, shared_folder
from harness import RESULTS, write_json, write_row
from sklearn.linear_model import LogisticRegression

from headstart.augment import EvalPrepare
from headstart.data import decode
from headstart.data.colours import WHITE
from headstart.deploy import Manifest, load_bundle, member_of, save_bundle
from headstart.deploy.export import export
from headstart.deploy.export.parts import parts_of
from headstart.errors import HeadstartError
from headstart.models import Classifier, create_classifier

CLAIM = (
    "on 500 real pictures and four bodies, from identical decoded pixels, PyTorch, ONNX Runtime in the small "
    "runtime and torch.export agree within 1e-4; int8 agrees on 98 % of the classes or is refused"
)
BODIES = ("mobilenetv2_100", "resnet34", "convnext_tiny", "vit_small_patch16_224")
FORMATS = ("onnx", "torch", "onnx-fp16", "onnx-int8")
FITTED = 260
CLEAR = 0.02
# Predicts from files in a process that has no simplejpeg, no torch and no OpenCV.
FROM_BYTES = """
import json, sys
for name in ("simplejpeg", "torch", "cv2", "timm", "pandas", "sklearn"):
    sys.modules[name] = None
from headstart.runtime import load_export
rows = load_export(sys.argv[1]).stream(line.rstrip("\\n") for line in sys.stdin)
print(json.dumps([list(row["probabilities"].values()) for row in rows]))
"""


def pictures_and_labels(count: int) -> tuple[list[Path], list[str], list[Path]]:
    """Pictures that fit the head, their labels, and those that are judged."""
    known = labelled_pictures("flowers")
    files = [picture.file for picture in known]
    labels = [picture.label for picture in known]
    order = np.random.default_rng(0).permutation(len(files))
    fitted, judged = order[:FITTED], np.sort(order[FITTED : FITTED + count])
    return [files[k] for k in fitted], [labels[k] for k in fitted], [files[k] for k in judged]


def made(body: str, files: list[Path], labels: list[str]) -> tuple[Classifier, EvalPrepare]:
    """A network whose head is a logistic regression on its own features."""
    weights = shared_folder() / "weights" / f"{body}.safetensors"
    classes = sorted(set(labels))
    source: dict[str, Any] = {"weights": str(weights)} if weights.is_file() else {"from_scratch": True}
    model = create_classifier(body, len(classes), image_size=224, seed=0, **source).eval()
    if not weights.is_file():
        with torch.no_grad():  # timm starts some residual branches at zero
            for name, parameter in model.named_parameters():
                if name.endswith("weight") and parameter.ndim == 1:
                    parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    plain = EvalPrepare((224, 224), "crop", model.crop_fraction, model.interpolation)  # type: ignore[arg-type]
    features = []
    with torch.inference_mode():
        for file in files:
            view = plain(decode(file.read_bytes(), short_side=plain.short_side))
            pixels = torch.from_numpy(view).permute(2, 0, 1)[None]
            inside = model.run_stages(model.standardise(pixels), 0, model.head_stage)
            features.append(inside.flatten(1).numpy()[0])
    table = np.array(features)
    scale = table.std(0) + 1e-3
    targets = [classes.index(label) for label in labels]
    fit = LogisticRegression(C=0.05, max_iter=500).fit(table / scale, targets)
    model.init_head_from(fit.coef_ / scale, fit.intercept_)
    return model, plain


def from_bytes(folder: Path, bundle: Path, files: list[Path]) -> dict[str, Any]:
    """How the small runtime's answers to files compare with PyTorch's after headstart's own decoding."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FROM_BYTES, str(folder)]
    given = "\n".join(map(str, files))
    answer = subprocess.run(command, input=given, capture_output=True, text=True, check=True, env=environment)
    found = np.array(json.loads(answer.stdout))
    parts = parts_of(load_bundle(bundle))
    side = parts.graphs[0].given.short_side
    wanted = np.concatenate([parts.reference([decode(file.read_bytes(), short_side=side)]) for file in files])
    ranked = np.sort(wanted, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > CLEAR
    same = found.argmax(1) == wanted.argmax(1)
    return {
        "pictures": len(files),
        "difference": float(np.abs(found - wanted).max()),
        "agreement": float(same.mean()),
        "clear": int(clear.sum()),
        "clear_flips": int((clear & ~same).sum()),
    }


def measure(body: str, count: int, kept: Path, *, fresh: bool) -> dict[str, Any]:
    """All formats of one body; what is in the file `kept` already is not done again."""
    rows: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() and not fresh else {}
    files, labels, judged = pictures_and_labels(count)
    if set(rows) >= {*FORMATS, "from bytes"}:
        return rows
    with tempfile.TemporaryDirectory(prefix="headstart-") as folder:
        bundle = Path(folder) / "bundle"
        model, plain = made(body, files, labels)
        member = member_of(model, plain, short_side=plain.short_side, background=WHITE)
        manifest = Manifest(members=(member,), classes=tuple(sorted(set(labels))), temperature=1.2)
        save_bundle(bundle, [model], manifest)
        for format in FORMATS:
            if format in rows and not (format == "onnx" and "from bytes" not in rows):
                continue
            started = time.perf_counter()
            try:
                done = export(bundle, Path(folder) / format, format=format, pictures=judged)
                row = done.verification.to_dict()
            except HeadstartError as error:
                row = {"refused": error.message}
            rows[format] = row | {"seconds": round(time.perf_counter() - started, 1)}
            print(body, format, rows[format], flush=True)
            if format == "onnx" and "refused" not in row:
                rows["from bytes"] = from_bytes(Path(folder) / format, bundle, judged)
                print(body, "from bytes", rows["from bytes"], flush=True)
            write_json(kept, rows)
    return rows


def main() -> None:
    """Measure what is missing, and write the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bodies", nargs="+", default=list(BODIES), choices=BODIES)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--fresh", action="store_true")
    asked = parser.parse_args()
    name = "export" if asked.pictures == 500 else f"export_{asked.pictures}"
    results = {
        body: measure(body, asked.pictures, RESULTS / name / f"{body}.json", fresh=asked.fresh)
        for body in asked.bodies
    }
    write_row(CLAIM, results, n=asked.pictures, name=name)


if __name__ == "__main__":
    main()
