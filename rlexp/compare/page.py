"""Renders a report as one self-contained HTML page, figures included."""

import html

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem;font-size:13px}td,th{padding:.25rem .7rem;text-align:left;
border-bottom:1px solid #ddd}th{border-bottom:2px solid #888}code{background:#f3f3f3;padding:.1rem .3rem}
svg{max-width:100%;height:auto;margin:1rem 0}h3{margin-bottom:.2rem}"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # no scripts, whatever a run is named


def page(text: str, drawings: list[str]) -> str:
    """Convert the markdown of report.py to HTML: headings, paragraphs, list items, tables, **bold** and `code`.

    Any other mark is shown as it is, as it may be part of a name. drawings: contents of svg files.
    """
    body: list[str] = []
    for line in text.splitlines():
        if line.startswith("| "):
            tag = "td" if body and body[-1].endswith("</tr>") else "th"
            cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
            row = "".join(f"<{tag}>{_inline(cell)}</{tag}>" for cell in cells)
            body.append(f"{'<table>' if tag == 'th' else ''}<tr>{row}</tr>")
        elif not line.startswith("|---"):
            if body and body[-1].endswith("</tr>"):
                body[-1] += "</table>"
            level = len(line) - len(line.lstrip("#"))
            tag = f"h{level}" if level else "p"
            body += (
                [f"<{tag}>{_inline(line.lstrip('# ') if level else line.removeprefix('- '))}</{tag}>"] if line else []
            )
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
    for mark, tag in (("**", "b"), ("`", "code")):
        parts = (text if tag == "code" else html.escape(text)).split(mark)
        text = "".join(f"<{tag}>{part}</{tag}>" if i % 2 else part for i, part in enumerate(parts))
    return text
