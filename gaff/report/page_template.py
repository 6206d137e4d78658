# SPDX-License-Identifier: Apache-2.0
"""The text of ``report.html``: style, frame and the script of the curve's read-out.  :mod:`.page` fills it."""

from string import Template

PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c1e21; --quiet: #5f6670; --rule: #e3e6ea; --card: #f6f7f9;
  --loss: #0072b2; --reset: #c24e00; --back: #00795a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --ink: #e6e8ea; --quiet: #9aa3ad; --rule: #2b3036; --card: #1c2024;
    --loss: #58b4e8; --reset: #f0883e; --back: #3cc49a;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1040px; padding: 28px 20px 48px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 18px; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 32px 0 10px; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 0 0 22px; }
dl div { background: var(--card); border-radius: 8px; padding: 10px 14px; }
dt { color: var(--quiet); font-size: .82rem; }
dd { margin: 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
dd small { display: block; font-size: .78rem; font-weight: 400; color: var(--quiet); min-height: 1.5em; }
figure { margin: 0; position: relative; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--quiet); }
svg .reset-name { fill: var(--reset); }
.middle { text-anchor: middle; } .end { text-anchor: end; }
.grid { stroke: var(--rule); } .axis { stroke: var(--quiet); stroke-opacity: .55; }
.reset { stroke: var(--reset); stroke-dasharray: 3 3; stroke-opacity: .8; }
.loss, .rate, .back { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.loss { stroke: var(--loss); stroke-width: 1.8; clip-path: url(#plot); }
.rate { stroke: var(--quiet); stroke-width: 1.4; }
.back { stroke: var(--back); stroke-width: 1.8; stroke-linecap: butt; }
.reset.many { stroke-opacity: .25; }
.cursor { stroke: var(--ink); stroke-opacity: .45; }
.dot { fill: var(--loss); stroke: var(--paper); stroke-width: 1.5; }
#surface { fill: transparent; }
output { position: absolute; top: 26px; pointer-events: none; background: var(--card); border: 1px solid var(--rule);
  border-radius: 6px; padding: 5px 10px; font-size: .82rem; line-height: 1.4; white-space: pre;
  font-variant-numeric: tabular-nums; }
output[hidden] { display: none; }
figcaption { color: var(--quiet); font-size: .85rem; margin-top: 6px; }
.key { display: inline-block; width: 18px; height: 0; border-top: 2px solid; vertical-align: middle;
  margin: 0 5px 0 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 14px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--quiet); font-weight: 500; font-size: .85rem; }
th:first-child, td:first-child { padding-left: 4px; }
footer { color: var(--quiet); font-size: .85rem; margin-top: 28px; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>$title</h1>
<dl>
$tiles
</dl>
<figure>
$curve
<output hidden></output>
<figcaption><span class="key" style="color: var(--loss)"></span>loss, mean since the line before &ensp;
<span class="key" style="color: var(--reset); border-top-style: dashed"></span>reset &ensp;
<span class="key" style="color: var(--back)"></span>from a reset to where the loss is back</figcaption>
</figure>
<h2>Resets</h2>
<div class="scroll">
$resets
</div>
<footer>
$notes
</footer>
<script type="application/json" id="data">$data</script>
<script>
"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const curve = document.getElementById("curve");
  const surface = document.getElementById("surface");
  const cursor = document.getElementById("cursor");
  const readout = document.querySelector("output");
  const line = cursor.querySelector("line"), dot = cursor.querySelector("circle");
  const ITERATION = 0, LOSS = 1, RATE = 2, SPEED = 3, X = 4, Y = 5;

  function nearest(x) {
    let low = 0, high = data.points.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (data.points[middle][X] < x) { low = middle + 1; } else { high = middle; }
    }
    const before = data.points[Math.max(0, low - 1)], after = data.points[low];
    return x - before[X] < after[X] - x ? before : after;
  }

  function show(event) {
    const box = curve.getBoundingClientRect();
    const zoom = box.width / data.width;
    const point = nearest((event.clientX - box.left) / zoom);
    line.setAttribute("x1", point[X]);
    line.setAttribute("x2", point[X]);
    dot.setAttribute("cx", point[X]);
    dot.setAttribute("cy", point[Y]);
    cursor.setAttribute("visibility", "visible");
    const done = data.resets.filter(function (reset) { return reset < point[ITERATION]; });
    const lines = ["iteration " + point[ITERATION].toLocaleString("en"), "loss " + point[LOSS],
      "learning rate " + point[RATE], point[SPEED] + " an iteration"];
    if (done.length) {
      const ago = point[ITERATION] - done[done.length - 1];
      lines.push(ago.toLocaleString("en") + " after reset " + done.length);
    }
    readout.textContent = lines.join("\\n");
    readout.hidden = false;
    const at = point[X] * zoom, right = at > box.width / 2;
    readout.style.left = right ? "" : at + 14 + "px";
    readout.style.right = right ? box.width - at + 14 + "px" : "";
  }

  function hide() {
    cursor.setAttribute("visibility", "hidden");
    readout.hidden = true;
  }

  surface.addEventListener("pointermove", show);
  surface.addEventListener("pointerdown", show);
  surface.addEventListener("pointerleave", hide);
})();
</script>
</body>
</html>
""")
