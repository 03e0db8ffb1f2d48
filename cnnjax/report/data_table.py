"""A table that the reader can sort by any column and filter by the values of some."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

STYLE = """
.filters { display: flex; flex-wrap: wrap; gap: .5rem 1rem; margin: 1rem 0; }
.filters label { display: flex; flex-direction: column; font-size: .85rem; color: var(--dim); }
.filters select { font: inherit; color: var(--fg); background: var(--bg); border: 1px solid var(--line);
                  border-radius: 4px; padding: .2rem; max-width: 16rem; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
section[data-table] :is(th, td), .compact :is(th, td) { white-space: nowrap; }
.count { color: var(--dim); font-size: .85rem; }
"""
SCRIPT = """
document.querySelectorAll('section[data-table]').forEach(section => {
  const body = section.querySelector('tbody'), rows = [...body.rows], heads = [...section.querySelectorAll('th')];
  const selects = [...section.querySelectorAll('select')], count = section.querySelector('.count');
  heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') === 'descending';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = row => row.cells[column].dataset.key;
    const compare = (a, b) => {
      if (key(a) === '' || key(b) === '') return (key(a) === '') - (key(b) === '');
      const numbers = [Number(key(a)), Number(key(b))];
      const order = numbers.some(Number.isNaN) ? key(a).localeCompare(key(b)) : numbers[0] - numbers[1];
      return up ? order : -order;
    };
    rows.sort(compare).forEach(row => body.append(row));
  }));
  const filter = () => {
    let shown = 0;
    rows.forEach(row => {
      const key = select => row.cells[select.dataset.column].dataset.key;
      row.hidden = selects.some(select => select.value && key(select) !== select.value);
      shown += !row.hidden;
    });
    count.textContent = `${shown} of ${rows.length} rows`;
  };
  selects.forEach(select => select.addEventListener('change', filter));
});
"""


class Shown(NamedTuple):
    """A cell: its text, and the value by which it is sorted; None is sorted last."""

    text: str
    key: Any


def data_table(header: Sequence[str], rows: Sequence[Sequence[Shown]], filters: Sequence[int]) -> str:
    """Return the table with a sort button in each column and a list of values for each column in ``filters``."""
    head = "".join(f"<th><button>{html.escape(name)}</button></th>" for name in header)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    lists = "".join(_select(header[column], column, [_key(row[column]) for row in rows]) for column in filters)
    return (
        f'<section data-table="1"><div class="filters">{lists}</div>'
        f'<div class="count">{len(rows)} of {len(rows)} rows</div>'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def _cell(cell: Shown) -> str:
    return f'<td data-key="{html.escape(_key(cell), quote=True)}">{html.escape(cell.text)}</td>'


def _key(cell: Shown) -> str:
    return "" if cell.key is None else str(cell.key)


def _select(name: str, column: int, keys: Sequence[str]) -> str:
    known = [html.escape(key, quote=True) for key in dict.fromkeys(keys) if key]
    options = "".join(f'<option value="{key}">{key}</option>' for key in known)
    return (
        f'<label>{html.escape(name)}<select data-column="{column}"><option value="">all</option>{options}</select>'
        "</label>"
    )
