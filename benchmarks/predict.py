"""Claim: a single 500 x 375 JPEG costs at most 5 ms above its decode and the bare network, on a CPU.

    python benchmarks/predict.py --fastai-python PATH/TO/python [--n 40] [--pictures 200] [--arch resnet18 …]

For each architecture: the latency of `predictor.predict(bytes)` beside the decode of the same bytes and the
bare call of the same engine on pixels that are ready, in turn, picture by picture; and beside fastai's
`learn.predict`. Then pictures a second over a folder: our two engines (`--tta none`, decoding in children as
by default), and fastai's `get_preds` with its own batches. Pictures are those of `flowers`, made 500 x 375.
fastai runs in an environment of its own, and imports nothing of headstart; its weights are random, which
costs the same. What a picture costs above the two is taken in processor time of the thread that asks, in
which all of it is done, so that other work on the machine counts for none of it; the clock stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import RESULTS, json_lines, run_process, spread, write_row

CLAIM = (
    "a single 500 x 375 JPEG costs at most 5 ms above its decode and the bare network (median, CPU), "
    "and a folder is predicted faster than by fastai's get_preds"
)
MOST_ABOVE = 5.0


def pictures_into(folder: Path, count: int, shared: Path) -> list[Path]:
    """Write so many JPEGs of 500 x 375."""
    from PIL import Image

    sources = sorted((shared / "data" / "flowers").rglob("*.jpg"))
    made = []
    for number in range(count):
        with Image.open(sources[number % len(sources)]) as image:
            file = folder / f"{number:05}.jpg"
            image.convert("RGB").resize((500, 375)).save(file, quality=90)
        made.append(file)
    return made


def bundle_of(arch: str, folder: Path, shared: Path) -> Path:
    """Export a network of ten classes."""
    from headstart.augment import EvalPrepare
    from headstart.deploy import Manifest, member_of, save_bundle
    from headstart.models import create_classifier

    weights = shared / "weights" / f"{arch}.safetensors"
    known = {"weights": str(weights)} if weights.is_file() else {"from_scratch": True}
    model = create_classifier(arch, 10, image_size=224, seed=0, **known).eval()
    member = member_of(model, EvalPrepare((224, 224)), short_side=256, background=(255, 255, 255))
    classes = tuple(f"class {number}" for number in range(10))
    save_bundle(folder / arch, [model], Manifest(members=(member,), classes=classes))
    return folder / arch


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    return both(call)[0]


def both(call: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds of one call by the clock, and of this thread's processor time in it."""
    started, worked = time.perf_counter(), time.thread_time()
    call()
    return 1000 * (time.perf_counter() - started), 1000 * (time.thread_time() - worked)


def single(bundle: Path, files: list[Path], engine: str) -> dict[str, Any]:
    """The latency of one picture, and what its decode and the bare network take of it."""
    import numpy as np

    from headstart.augment import EvalPrepare
    from headstart.data import decode
    from headstart.deploy import load_predictor

    with load_predictor(bundle, device="cpu", engine=engine) as predictor:
        given = predictor.manifest.members[0].preprocessing
        prepare = EvalPrepare(given.size, given.policy, given.crop_fraction, given.interpolation)
        predictor.prepare()
        bare = bare_network(predictor, engine)
        rows: dict[str, list[float]] = {}
        for file in [*files[:5], *files]:  # the first ones warm up
            data = file.read_bytes()
            pixels = np.ascontiguousarray(prepare(decode(data, short_side=given.short_side))[None])
            took = {
                "predict": both(lambda data=data: predictor.predict(data)),
                "decode": both(lambda data=data: decode(data, short_side=given.short_side)),
                "network": both(lambda pixels=pixels: bare(pixels)),
            }
            for name, (clock, _) in took.items():
                rows.setdefault(name, []).append(clock)
            for place, name in enumerate(("above by the clock", "above")):
                above = took["predict"][place] - took["decode"][place] - took["network"][place]
                rows.setdefault(name, []).append(above)
    return {name: spread(values[5:]) for name, values in rows.items()}


def bare_network(predictor: Any, engine: str) -> Callable[[Any], Any]:
    """The network alone: PyTorch's own call, or ONNX Runtime's and the head."""
    import torch

    network = predictor._networks[0]
    model = network.model
    if engine == "eager":

        def eager(pixels: Any) -> Any:
            with torch.inference_mode():
                return model(torch.from_numpy(pixels).permute(0, 3, 1, 2))

        return eager
    (choice,) = network.choices.values()
    session = choice.engine._session

    def graph(pixels: Any) -> Any:
        (inside,) = session.run(None, {"pixels": pixels})
        with torch.inference_mode():
            return model.run_stages(torch.from_numpy(inside), model.head_stage, len(model.stages))

    return graph


def folder_throughput(bundle: Path, folder: Path, count: int, engine: str, repeats: int) -> dict[str, float]:
    """Pictures a second over a folder, the model loaded and its graph made."""
    from headstart.deploy import load_predictor

    found = []
    with load_predictor(bundle, device="cpu", engine=engine) as predictor:
        predictor.prepare()
        for _ in range(repeats + 1):
            found.append(1000 * count / timed(lambda: predictor.predict(folder)))
    return spread(found[1:], digits=1)


def agreement(bundle: Path, files: list[Path]) -> float:
    """The largest difference in a probability between the two engines."""
    import numpy as np

    from headstart.deploy import load_predictor

    said = []
    for engine in ("eager", "onnxruntime"):
        with load_predictor(bundle, device="cpu", engine=engine, trusted=True) as predictor:
            said.append(predictor.predict(files).probabilities)
    return float(np.abs(said[0] - said[1]).max())


def fastai_side(arch: str, folder: Path, n: int, repeats: int) -> None:
    """Run in fastai's own environment: print one JSON line."""
    import timm  # noqa: F401
    from fastai.vision.all import (
        ImageDataLoaders,
        Normalize,
        Resize,
        error_rate,
        imagenet_stats,
        vision_learner,
    )

    files = sorted(folder.glob("*.jpg"))
    loaders = ImageDataLoaders.from_name_func(
        folder,
        files,
        lambda name: f"class {int(Path(name).stem) % 10}",
        item_tfms=Resize(224),
        batch_tfms=Normalize.from_stats(*imagenet_stats),
        bs=32,
        num_workers=0,
    )
    learner = vision_learner(loaders, arch, pretrained=False, normalize=False, metrics=error_rate)
    with learner.no_bar(), learner.no_logging():
        one = [timed(lambda file=file: learner.predict(file)) for file in [*files[:5], *files[:n]]][5:]
        rates = []
        for _ in range(repeats):
            test = loaders.test_dl(files, num_workers=0)
            rates.append(1000 * len(files) / timed(lambda test=test: learner.get_preds(dl=test)))
    print(json.dumps({"predict": spread(one), "get_preds": spread(rates, digits=1)}))


def measure(arch: str, options: argparse.Namespace, work: Path, files: list[Path]) -> dict[str, Any]:
    """All of one architecture."""
    bundle = bundle_of(arch, work, options.shared)
    row: dict[str, Any] = {
        "single, ms": {
            engine: single(bundle, files[: options.n], engine) for engine in ("eager", "onnxruntime")
        },
        "folder, pictures/s": {
            engine: folder_throughput(bundle, files[0].parent, len(files), engine, options.repeats)
            for engine in ("eager", "onnxruntime")
        },
        "largest difference of a probability": agreement(bundle, files),
    }
    rates = row["folder, pictures/s"]
    row["onnxruntime / eager"] = round(rates["onnxruntime"]["median"] / rates["eager"]["median"], 2)
    if options.fastai_python:
        command = [options.fastai_python, __file__, "--side", "fastai", "--arch", arch]
        command += ["--folder", str(files[0].parent), "--n", str(options.n)]
        done = run_process([*command, "--repeats", str(options.repeats)], log=work / "fastai.log")
        said = json_lines(line for _, line in done.lines)
        row["fastai"] = said[-1] if said else (work / "fastai.log").read_text()[-500:]
    return row


def main() -> None:
    """Measure each architecture and write the row."""
    parser = argparse.ArgumentParser(description="Latency and throughput of prediction on a CPU.")
    parser.add_argument("--fastai-python", default="", help="Python of an environment with fastai")
    parser.add_argument("--arch", nargs="+", default=["mobilenetv2_100", "resnet18"])
    parser.add_argument("--n", type=int, default=40, help="single pictures")
    parser.add_argument("--pictures", type=int, default=200, help="pictures in the folder")
    parser.add_argument("--repeats", type=int, default=3, help="runs over the folder")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("HEADSTART_SHARED", "../shared")))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--side", choices=("fastai",), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        fastai_side(options.arch[0], options.folder, options.n, options.repeats)
        return
    with tempfile.TemporaryDirectory(prefix="predict_") as temporary:
        work = Path(temporary)
        (work / "pictures").mkdir()
        files = pictures_into(work / "pictures", options.pictures, options.shared)
        found = {arch: measure(arch, options, work, files) for arch in options.arch}
    above = [row["single, ms"][engine]["above"] for row in found.values() for engine in row["single, ms"]]
    results = {"holds": all(each["median"] <= MOST_ABOVE for each in above), "architectures": found}
    spreads = {
        f"{arch}, {engine}, above decode and network, ms": row["single, ms"][engine]["above"]
        for arch, row in found.items()
        for engine in row["single, ms"]
    }
    write_row(
        CLAIM,
        results,
        n=options.n,
        name="predict",
        spreads=spreads,
        baseline_python=options.fastai_python or None,
        folder=options.results,
    )


if __name__ == "__main__":
    main()
