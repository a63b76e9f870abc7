"""A playground in the browser, on this machine."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lcm.cli.arguments import add_adapters, add_base, add_device, load_pipe, read_weights
from lcm.system.console import tell
from lcm.system.flags import within
from lcm.system.words import file_path, one_of, text, whole

if TYPE_CHECKING:
    from lcm.adapter.locate import Located
    from lcm.play.studio import Studio

HELP = "open a page that draws while you type, compares adapters and watches a run"
EXAMPLE = "lcm play --base someone/sd15 --adapter out/ style.safetensors=0.8"
TOO_SMALL_TO_SHARE = 20_000_000
"""Parameters of a U-Net whose layers two threads take longer for than one: of the tiny world's
teacher, four million, a picture takes twice as long.
"""
SCHEDULERS = ("LCMScheduler", "TCDScheduler", "DDIMScheduler")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_base(parser, "what the pictures are drawn with; may be left out to watch a run alone")
    add_adapters(parser, ", which the page mixes; default weight: 1")
    add(
        "--scheduler",
        type=one_of(*SCHEDULERS),
        choices=SCHEDULERS,
        help="how adapters without a recipe are played: LCMScheduler for LCM-LoRAs from elsewhere; "
        "default: they are styles",
    )
    add("--run", type=file_path, metavar="DIR", help="the output folder of a training to watch")
    add(
        "--folder",
        type=file_path,
        nargs="+",
        action="extend",
        default=[],
        metavar="DIR",
        help="folders of adapters that may be picked in the page; no other file is opened there "
        "but those dropped on it",
    )
    positive = within(whole, at_least=1, at_most=1000)
    add("--max_batch", type=positive, default=8, help="rows of the U-Net at a time; default: 8")
    add(
        "--max_waiting",
        type=positive,
        default=64,
        help="pictures of all pages that may wait; default: 64",
    )
    add(
        "--max_upload",
        type=within(whole, at_least=1, at_most=1 << 16),
        default=1024,
        help="MiB of a file that is dropped on the page; default: 1024",
    )
    add_device(parser)
    add(
        "--port",
        type=within(whole, at_least=0, at_most=65535),
        default=7860,
        help="default: 7860; 0 for any that is free",
    )
    add("--host", type=text, default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    add(
        "--share",
        action="store_true",
        help="let others in, who then need no password; only together with --host",
    )
    add("--no_window", action="store_true", help="print the address, open no browser")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from lcm.inference.generate import look_up_all
    from lcm.play.start import (
        bind,
        check_folders,
        check_packages,
        check_sharing,
        make_server,
        names_of,
        open_page,
        url_of,
    )

    weights = read_weights(args.adapter)
    if args.base is None and (args.run is None or weights):
        raise ValueError("base: there is nothing to draw with; pass --base, or --run alone")
    check_sharing(args.host, args.share)
    check_folders("run", [args.run] if args.run else [])
    check_folders("folder", args.folder)
    check_packages()
    adapters = look_up_all(weights)
    with bind(args.host, args.port) as bound, TemporaryDirectory(prefix="lcm-play-") as temporary:
        from lcm.play.server import Play
        from lcm.play.uploads import Uploads

        uploads = Uploads(Path(temporary), args.folder, args.max_upload << 20)
        studio = make_studio(args, adapters, list(weights.values())) if args.base else None
        play = Play(uploads, studio, args.run)
        warnings.simplefilter("ignore", UserWarning)  # the page says what is worth saying
        print(url_of(bound), flush=True)
        if args.share:
            tell(f"warning: whoever reaches {args.host} can use this page")
        if not args.no_window:
            open_page(url_of(bound))
        make_server(play, names_of(args.host)).run(sockets=[bound])
    return 0


def make_studio(
    args: argparse.Namespace, adapters: Sequence[Located], weights: Sequence[float]
) -> Studio:
    """What draws, on the device that was asked for."""
    import torch

    from lcm.formats.misfit import check_widths
    from lcm.inference.devices import choose_device, choose_dtype
    from lcm.play.stage import Stage
    from lcm.play.start import fill
    from lcm.play.studio import Studio

    device = choose_device(args.device)
    check_widths(args.base, (found.file for found in adapters if found.file is not None))
    pipe: Any = load_pipe(args, choose_dtype(args.dtype, device)).to(device)
    pipe.set_progress_bar_config(disable=True)
    if device.type == "cpu" and pipe.unet.num_parameters() < TOO_SMALL_TO_SHARE:
        torch.set_num_threads(1)
    studio = Studio(Stage(pipe, args.base), max_batch=args.max_batch, max_waiting=args.max_waiting)
    fill(studio.stage, adapters, weights, args.scheduler)
    return studio
