"""Write what the documentation takes from the code: the reference in recipes.md, and the JSON Schema of recipes.

python docs/generate.py            write both files
python docs/generate.py --check    exit with 1 when one of them is stale
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from adkit.plugin.component import KINDS
from adkit.plugin.registry import Registry, discover
from adkit.recipe.reference import reference_markdown
from adkit.recipe.schema import recipe_schema
from adkit.utils.environment import DISTRIBUTION

ROOT = Path(__file__).parents[1]
MARK = "<!-- generated from the parameter models by docs/generate.py: edit those -->\n"


def built_in() -> Registry:
    """What adkit itself brings, whatever else is installed beside it."""
    registry = discover()
    return Registry(
        [entry for kind in KINDS for entry in registry.found(kind) if entry.origin.distribution == DISTRIBUTION], []
    )


def generated() -> dict[Path, str]:
    """Path → text of every file that is written from the code."""
    registry = built_in()
    recipes = ROOT / "docs" / "recipes.md"
    by_hand = recipes.read_text(encoding="utf-8").split(MARK)[0]
    return {
        recipes: by_hand + MARK + "\n" + reference_markdown(registry),
        ROOT / "recipes" / "recipe.schema.json": json.dumps(recipe_schema(registry), indent=2) + "\n",
    }


def main() -> int:
    stale = [
        path for path, text in generated().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run make docs", file=sys.stderr)
        return int(bool(stale))
    for path in stale:
        path.write_text(generated()[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
