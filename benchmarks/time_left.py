"""Measures how far off the time left is that a run shows, at 10, 25, 50 and 75% of its time.

    python benchmarks/time_left.py [--root data/textures] [--output time_left.json] [RECIPE …]

Each recipe (default: quickstart, dn2, panda) runs in a process of its own, without kept features, on images in the
layout of MVTec AD; without a folder of these the textures are drawn there. What the display would show is noted four
times a second, from the start of the run, which finds the data and builds the network before anything is known of its
pace. An error is the time left that was shown less the one that was, in seconds and as a share of the whole run; there
is none where nothing was shown yet. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SHARES = (0.1, 0.25, 0.5, 0.75)
"""Shares of a run's time at which the time left is compared."""
RECIPES = ("quickstart", "dn2", "panda")
EVERY = 0.25
"""Seconds between two looks at the display."""


def measured(recipe: str, root: str) -> dict[str, Any]:
    """Run a recipe and compare what its display said with what came."""
    import adkit
    from adkit.utils.progress import Display

    display, seen, over = Display(quiet=True), list[tuple[float, float | None]](), threading.Event()
    begun = time.perf_counter()

    def watch() -> None:
        while not over.wait(EVERY):
            left = display.left()
            seen.append((time.perf_counter() - begun, None if left is None else left.seconds))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            adkit.run(recipe, [f"data.root={root}", f"run.output={folder}"], display=display)
    finally:
        over.set()
        watching.join()
    whole = time.perf_counter() - begun
    rows = []
    for share in SHARES:
        at, left = max((one for one in seen if one[0] <= share * whole), default=(0.0, None))
        error = None if left is None else left - (whole - at)
        shown = {"share": share, "shown": left, "true": whole - at, "error": error}
        rows.append({**shown, "error_share": None if error is None else error / whole})
    return {"recipe": recipe, "seconds": whole, "at": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="RECIPE")
    parser.add_argument("--root", default="data/textures")
    parser.add_argument("--output", help="file for the figures, as JSON")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.recipes[0], options.root)))
        return
    if not Path(options.root).exists():
        from adkit.data.formats.textures import write_textures

        write_textures(Path(options.root), seed=0)
    found = []
    for recipe in options.recipes:
        command = [sys.executable, __file__, recipe, "--root", options.root, "--one"]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"ADKIT_CACHE_GB": "0"}
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{recipe}: {found[-1]['seconds']:.0f} s")
        for row in found[-1]["at"]:
            if row["error"] is None:
                print(f"  at {row['share']:.0%}: nothing shown")
            else:
                print(
                    f"  at {row['share']:.0%}: {row['shown']:.0f} s left shown, {row['true']:.0f} s were: "
                    f"{row['error']:+.0f} s, {row['error_share']:+.0%} of the run"
                )
    if options.output:
        Path(options.output).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
