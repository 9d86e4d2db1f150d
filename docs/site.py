"""What `make docs` adds to the pages of this folder: files of the repository that they link to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(
    r"\]\((?:\.\./)+(?P<path>(?:benchmarks|data|notebooks|CONTRIBUTING|README)[^)#]*)(?P<end>[^)]*)\)"
)


def on_files(files: Any, config: Any) -> Any:
    """Put the files that pages link to below `repository/`: Markdown as pages, all else as it is."""
    for page in list(files.documentation_pages()):
        text = (Path(config["docs_dir"]) / page.src_uri).read_text(encoding="utf-8")
        for match in _LINK.finditer(text):
            uri = f"repository/{match['path']}"
            if files.get_file_from_path(uri) is None:
                content = (ROOT / match["path"]).read_bytes()
                files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links out of the folder lead to these files."""
    if page.file.src_uri.startswith("repository/"):
        return re.sub(r"\[([^]]+)\]\((?!https?:)[^)]*\)", r"\1", markdown)  # they link to the repository
    up = "../" * page.file.src_uri.count("/")
    return _LINK.sub(lambda match: f"]({up}repository/{match['path']}{match['end']})", markdown)
