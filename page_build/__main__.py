"""Put the editor of the page into the source tree."""

import sys
from pathlib import Path

from cell_build import cache
from page_build import FOLDER, EditorError, cached, copy_to, fetch


def main() -> None:
    root = Path(__file__).parents[1]
    cache_folder = cache.open_folder()
    try:
        copy_to(cached(cache_folder) or fetch(cache_folder), root / FOLDER)
    except EditorError as error:
        sys.exit(f"error: {error}")
    print(root / FOLDER)


if __name__ == "__main__":
    main()
