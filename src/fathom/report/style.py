"""The page's style sheet. Kept as text in a module, so that it travels with the package and its hash is easily taken."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fcfcfa; --raised: #ffffff; --ink: #1c2126; --muted: #5a636d; --rule: #e2e4e6; --grid: #eceded;
  --proved: #1666a8; --unknown: #79828c; --broken: #c4440c; --already: #7c4a2d; --veil: #c4440c12; --code: #f2f2ef;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --raised: #1b1f23; --ink: #e6e8ea; --muted: #a3acb5; --rule: #30363c; --grid: #23282d;
    --proved: #6fb3ea; --unknown: #98a2ac; --broken: #ff8f5e; --already: #cf9a78; --veil: #ff8f5e14; --code: #20252a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 64rem; padding: 4rem 2rem 5rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word;
}
p, ul, dl, figure { margin: 0 0 1rem; }
p, li, figcaption { max-width: 42rem; text-wrap: pretty; }
h1, h2, h3 { line-height: 1.2; font-weight: 650; text-wrap: balance; letter-spacing: -0.012em; }
h1 { font-size: clamp(1.75rem, 1.2rem + 2.6vw, 2.75rem); max-width: 22em; margin: 0.5rem 0 1.25rem; letter-spacing: -0.022em; }
h2 { font-size: 1.375rem; margin: 0 0 1rem; }
h3 { font-size: 1.0625rem; margin: 2rem 0 0.5rem; }
a { color: inherit; text-decoration-color: var(--muted); text-underline-offset: 0.2em; }
a:hover { text-decoration-color: currentColor; }
:focus-visible { outline: 2px solid var(--proved); outline-offset: 3px; border-radius: 2px; }
section { padding-top: 3rem; margin-top: 3rem; border-top: 1px solid var(--rule); scroll-margin-top: 1rem; }
footer { margin-top: 4rem; padding-top: 1.5rem; border-top: 1px solid var(--rule); color: var(--muted); font-size: 0.875rem; }
.name { white-space: nowrap; }
.overline { margin: 0; color: var(--muted); font-size: 0.9375rem; }
.lead { font-size: 1.1875rem; line-height: 1.55; }
.muted, figcaption, caption { color: var(--muted); }
.strong { font-weight: 600; }
nav ul {
  display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin: 2rem 0 0; padding: 0; list-style: none;
  font-size: 0.875rem; color: var(--muted);
}

.chart { display: block; overflow: visible; font-size: 0.8125rem; }
.chart text { fill: var(--muted); }
.chart text.strong { fill: var(--ink); }
figcaption { margin-top: 0.75rem; font-size: 0.9375rem; }
.proved { --tone: var(--proved); }
.unknown { --tone: var(--unknown); }
.broken { --tone: var(--broken); }
.already { --tone: var(--already); }
.block { fill: var(--tone); stroke: var(--paper); stroke-width: 2; }
.hatching { stroke: var(--paper); stroke-width: 2.5; fill: none; }
.bracket { stroke: var(--ink); stroke-width: 1.5; }
.grid { stroke: var(--grid); }
.zero { stroke: var(--ink); stroke-width: 1.25; }
.danger { fill: var(--veil); }
g.proved line, g.broken line, g.unknown line { stroke: var(--tone); stroke-width: 1.25; }
g.unknown line { stroke-dasharray: 4 2; }
g.proved circle, g.broken circle { fill: var(--tone); }
.mark { width: 0.75em; height: 0.75em; overflow: visible; }
.mark path { fill: var(--tone); stroke: var(--tone); stroke-width: 1.5; }
.mark.unknown path { fill: none; stroke-width: 2; }
.mark.broken path { fill: none; stroke-width: 3; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1.5rem 2rem; margin: 2.5rem 0 1.5rem; }
.tiles dt { font-size: 0.9375rem; }
.tiles dd { margin: 0; font-size: 0.875rem; line-height: 1.4; }
.tiles strong { font-size: 2rem; line-height: 1.3; font-weight: 600; letter-spacing: -0.02em; margin-right: 0.25rem; }

.legend { font-size: 0.875rem; color: var(--muted); margin: 1.5rem 0; }
.legend p { margin: 0 0 0.25rem; }
.scale { white-space: nowrap; }
.scale img { vertical-align: -0.1em; width: 7rem; height: 0.75rem; }
.cards {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18.5rem, 100%), 1fr)); gap: 1.25rem;
  align-items: stretch;
}
.card {
  min-width: 0; padding: 1.25rem; background: var(--raised); border: 1px solid var(--rule);
  border-radius: 10px; font-size: 0.875rem; line-height: 1.5;
}
.card h3 { margin: 0; font-size: 1.125rem; }
.card p { margin: 0 0 0.75rem; }
.triptych { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 0.5rem; margin: 0.75rem 0 1rem; }
.triptych figure { margin: 0; }
.triptych figcaption { margin: 0.25rem 0 0; font-size: 0.8125rem; text-align: center; }
.pixels {
  display: block; width: 100%; height: auto; aspect-ratio: 1; object-fit: contain;
  image-rendering: pixelated; border-radius: 4px; background: var(--code);
}
.pairs { margin: 0 0 0.75rem; }
.pairs div { display: flex; justify-content: space-between; gap: 1rem; padding: 0.2rem 0; border-top: 1px solid var(--grid); }
.pairs dt { color: var(--muted); flex: none; }
.pairs dd { margin: 0; text-align: right; }

.scroll { position: relative; overflow-x: auto; margin: 0 0 1.5rem; }
table { border-collapse: collapse; max-width: 100%; font-size: 0.875rem; line-height: 1.45; }
caption { text-align: left; padding: 0 0 0.5rem; }
th, td {
  padding: 0.4rem 2rem 0.4rem 0; text-align: left; vertical-align: top; font-weight: 400;
  border-top: 1px solid var(--grid);
}
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--muted); border-top: 0; border-bottom: 1px solid var(--rule); vertical-align: bottom; }
tbody tr:first-child > * { border-top: 0; }
.number { text-align: right; }
td.number { white-space: nowrap; }
.card table { width: 100%; }
.card .scroll { margin: 0 0 0.75rem; }
.card caption { padding: 0; }
.card th, .card td { padding: 0.2rem 0.75rem 0.2rem 0; }
.card th:last-child, .card td:last-child { padding-right: 0; }
details { margin: 0 0 0.5rem; }
summary { cursor: pointer; color: var(--muted); font-size: 0.875rem; padding: 0.35rem 0; }
summary:hover { color: var(--ink); }
code, pre { font: 0.8125rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; overflow-wrap: anywhere; }
pre { margin: 0 0 1rem; padding: 0.875rem 1rem; background: var(--code); border-radius: 8px; white-space: pre-wrap; }
.recipe { white-space: pre; overflow-x: auto; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.card pre { max-height: 11rem; overflow-y: auto; padding: 0.75rem; font-size: 0.75rem; }

@media (max-width: 34rem) {
  body { padding: 2rem 1rem 3rem; }
  section { padding-top: 2rem; margin-top: 2rem; }
  .lead { font-size: 1.0625rem; }
  table { width: 100%; font-size: 0.8125rem; }
  th, td { padding-right: 0.6rem; hyphens: auto; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 1.25rem 1rem; }
}
@media print {
  :root { --paper: #fff; --raised: #fff; --ink: #000; --muted: #444; }
  html { font-size: 9.5pt; }
  body { max-width: none; padding: 0; }
  nav, details { display: none; }
  .card, figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .block, .danger, .pixels, .scale img { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .recipe { white-space: pre-wrap; }
}
"""
