"""Renders a report as one self-contained HTML page, figures included."""

import html

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem;font-size:13px}td,th{padding:.25rem .7rem;text-align:left;
border-bottom:1px solid #ddd}th{border-bottom:2px solid #888}code{background:#f3f3f3;padding:.1rem .3rem}
svg{max-width:100%;height:auto;margin:1rem 0}h3{margin-bottom:.2rem}"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # no scripts, whatever a run is named


def page(text: str, drawings: list[str]) -> str:
    """Convert the markdown of report.py to HTML.

    Args:
        text: headings, paragraphs, list items, tables, **bold** and `code`; other markdown is not supported.
        drawings: contents of svg files.
    """
    body: list[str] = []
    rows: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|---"):
            continue
        if line.startswith("| "):
            rows.append([cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")])
            continue
        if rows:
            body.append(_html_table(rows))
            rows = []
        if line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            body.append(f"<h{level}>{_inline(line.lstrip('# '))}</h{level}>")
        elif line:
            body.append(f"<p>{_inline(line.removeprefix('- '))}</p>")
    figures = [drawing[drawing.index("<svg") :] for drawing in drawings]
    return "\n".join(
        [
            "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Comparison</title>",
            f"<meta http-equiv='Content-Security-Policy' content=\"{_POLICY}\">",
            f"<style>{_STYLE}</style></head><body><h1>Comparison</h1>",
            *body,
            *figures,
            "</body></html>\n",
        ]
    )


def _inline(text: str) -> str:
    parts = html.escape(text).split("**")
    bold = "".join(f"<b>{part}</b>" if i % 2 else part for i, part in enumerate(parts))
    codes = bold.split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(codes))


def _html_table(rows: list[list[str]]) -> str:
    head, *rest = rows
    lines = ["<tr>" + "".join(f"<th>{_inline(c)}</th>" for c in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{_inline(c)}</td>" for c in row) + "</tr>" for row in rest]
    return "<table>" + "".join(lines) + "</table>"
