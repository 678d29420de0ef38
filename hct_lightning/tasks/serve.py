"""An artifact behind HTTP, with a page to try it."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from hct_lightning.cli.plain import plain
from hct_lightning.deploy.artifact import load_artifact
from hct_lightning.runs.record import read_record

log = logging.getLogger(__name__)


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=serve serve.artifact=<folder>`, or `run=<folder> serve.name=torchscript`: until Ctrl-C.

    `POST /predict` answers, `/health` and `/metrics` are for who watches over it, `/` is a page for people.
    """
    from hct_lightning.serving import server  # LitServe is an extra
    from hct_lightning.serving.api import ArtifactAPI
    from hct_lightning.serving.page import make_page

    options = plain(cfg.serve)
    if not options["artifact"] and read_record(folder / "run.json").get("task") == "pretrain":
        raise ValueError(
            f"run={cfg.run} is of task=pretrain, whose network has no classes to answer with; train it first: "
            f"ckpt={folder}/checkpoints/best.ckpt, without task= and run="
        )
    place = Path(str(options["artifact"] or folder / "artifacts" / options["name"])).expanduser().resolve()
    check(options)
    server.check_free(options["host"], options["port"])
    # What is wrong with it is said here, in a line, and not by the process that serves.
    artifact = load_artifact(place, trust=options["trust"])
    about = artifact.description
    api = ArtifactAPI(
        place,
        batch_size=options["batch_size"] if about["input"]["batch"] is None else 1,
        max_pixels=options["max_pixels"],
        map_tiles=options["map_tiles"],
        threads=cfg.runtime.threads,
        keep_memory=cfg.runtime.keep_memory,
        trust=options["trust"],
    )
    page = make_page(
        {
            "name": place.name,
            "classes": artifact.classes,
            "size": about["decoding"]["size"],
            "max_mb": options["max_mb"],
            "map": options["map_tiles"],
            "token": bool(options["token"]),
        }
    )
    made = server.build(
        api,
        page,
        token=options["token"],
        max_bytes=int(options["max_mb"] * 1e6),
        waiting=options["waiting"],
        timeout=options["timeout"],
    )
    log.info("%s at http://%s:%d/, Ctrl-C ends it", place.name, options["host"], options["port"])
    server.run(made, host=options["host"], port=options["port"])
    log.info("stopped")


def check(options: dict) -> None:
    """Raises ValueError for a value that is out of its range."""
    for name in ("max_mb", "max_pixels", "batch_size", "waiting", "timeout"):
        if not isinstance(options[name], int | float) or not options[name] > 0:
            raise ValueError(f"serve.{name}={options[name]}: give a number above 0")
    token = options["token"]
    if token is not None and (not isinstance(token, str) or not token.strip()):
        raise ValueError(
            f"serve.token={'' if isinstance(token, str) else token}: it is empty, or a number; give a word in "
            "HCT_SERVE_TOKEN, or unset it: then everyone may ask"
        )
    if not isinstance(options["port"], int) or not 1024 <= options["port"] <= 65535:
        raise ValueError(f"serve.port={options['port']}: give one from 1024 to 65535")
    if options["host"] not in ("127.0.0.1", "0.0.0.0", "::"):
        raise ValueError(
            f"serve.host={options['host']}: give 127.0.0.1, or 0.0.0.0 or :: for all who reach this machine"
        )
    if not isinstance(options["map_tiles"], int) or not 0 <= options["map_tiles"] <= 32:
        raise ValueError(f"serve.map_tiles={options['map_tiles']}: give 0 to 32")
