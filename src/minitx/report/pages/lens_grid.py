"""The logit lens as a table for a notebook: what every layer would say after every token."""

from __future__ import annotations

import html

from minitx.inspection.logit_lens import LogitLens
from minitx.report.terminal.heatmap import Scale
from minitx.report.terminal.token_labels import token_label

_STYLE = (
    "<style>.minitx-lens{overflow-x:auto}.minitx-lens table{border-collapse:separate;"
    "border-spacing:1px;font:12px ui-monospace,monospace}.minitx-lens td,.minitx-lens th{"
    "padding:1px 5px;text-align:center;white-space:pre}.minitx-lens .next{outline:2px solid "
    "#d0006f;outline-offset:-2px}</style>"
)


def lens_grid(lens: LogitLens) -> str:
    """Rows are the readings, the last layer on top; columns the tokens of the text.

    A cell has the likeliest token that follows, coloured by its probability, and all that are kept
    in its title. It is framed where that token does follow.
    """
    scale = Scale(1.0)
    tokens = lens.tokens or tuple(map(str, range(lens.top_ids.shape[1])))
    head = "".join(f'<th scope="col">{_label(token)}</th>' for token in tokens)
    rows = []
    for at in reversed(range(len(lens.names))):
        cells = []
        for position in range(len(tokens)):
            pieces = [lens.pieces.get(int(i), str(i)) for i in lens.top_ids[at, position]]
            chances = [float(p) for p in lens.top_probabilities[at, position]]
            kept = ", ".join(
                f"{_label(piece)} {100 * chance:.0f} %"
                for piece, chance in zip(pieces, chances, strict=True)
            )
            follows = tokens[position + 1 : position + 2] == (pieces[0],) and bool(lens.pieces)
            cells.append(
                f'<td{" class=next" if follows else ""} title="{kept}" style="background:'
                f'{scale.color(chances[0])};color:{scale.ink(chances[0])}">{_label(pieces[0])}</td>'
            )
        loss = f"{lens.loss[at]:.3f}" if len(lens.loss) else ""
        rows.append(
            f'<tr><th scope="row">{html.escape(lens.names[at])}</th>{"".join(cells)}'
            f"<td>{loss}</td></tr>"
        )
    return (
        f'{_STYLE}<div class="minitx-lens"><table><thead><tr><th></th>{head}<th>loss</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
        "<p>What each layer would say next (logit lens), coloured by its probability; framed where "
        "it is what follows. Loss: nats per token.</p>"
    )


def _label(token: str) -> str:
    return html.escape(token_label(token))
