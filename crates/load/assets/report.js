// Draws the plots of the report from the JSON that stands in the page. Nothing is fetched.
"use strict";
(() => {
  const runs = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 4, notation: "compact" });
  const plain = (value) => (value === null || value === undefined ? "–" : number.format(value));
  const drawn = [];

  // Vertical lines where something happened, and its name where there is room for it.
  const marks = (list) => ({
    hooks: {
      draw: [
        (plot) => {
          const context = plot.ctx;
          const ratio = devicePixelRatio || 1;
          context.save();
          context.strokeStyle = context.fillStyle = colour("--faint");
          context.lineWidth = ratio;
          context.setLineDash([4 * ratio, 3 * ratio]);
          context.textAlign = "left";
          context.textBaseline = "alphabetic";
          context.font = `${11 * ratio}px system-ui, sans-serif`;
          const taken = [];
          for (const [at, what] of list) {
            const x = Math.round(plot.valToPos(at, "x", true));
            const { left, top, width, height } = plot.bbox;
            if (x < left || x > left + width) continue;
            context.beginPath();
            context.moveTo(x, top);
            context.lineTo(x, top + height);
            context.stroke();
            const length = context.measureText(what).width + 6 * ratio;
            const from = x + length > left + width ? x - length : x + 4 * ratio;
            // One line of text for each that would lie on another one; beyond three none.
            const row = [0, 1, 2].find((row) => !taken.some((t) => t.row === row && from < t.to && from + length > t.from));
            if (row === undefined || from < left) continue;
            taken.push({ row, from, to: from + length });
            context.fillText(what, from, top + (12 + row * 13) * ratio);
          }
          context.restore();
        },
      ],
    },
  });

  const tens = (_, splits) => splits.map((value) => (Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-9 ? value : null));

  const axes = (x, y, log) => {
    const common = { stroke: colour("--faint"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", labelSize: 18 };
    const values = (_, splits) => splits.map((value) => (value === null ? "" : number.format(value)));
    return [
      { ...common, label: x, ...(log ? {} : { values }) },
      // Of a logarithmic axis only the powers of ten: between them there is no room.
      { ...common, label: y, size: 56, values, ...(log ? { filter: tens, grid: { ...common.grid, filter: tens }, ticks: { ...common.ticks, filter: tens } } : {}) },
    ];
  };

  const draw = (place, { title, x, y, series, data, happened, log, ticks }) => {
    const card = document.createElement("div");
    card.className = "plot";
    const heading = document.createElement("h3");
    heading.textContent = title;
    const holder = document.createElement("div");
    card.append(heading, holder);
    place.append(card);
    const colours = ["--one", "--two", "--three"];
    const make = () => {
      holder.replaceChildren();
      const two = axes(x, y, log);
      if (ticks) Object.assign(two[0], ticks);
      const options = {
        width: Math.max(240, card.clientWidth - 22),
        height: 240,
        legend: { live: true },
        cursor: { y: false },
        scales: { x: { time: false }, y: log ? { distr: 3 } : { range: (_, least, most) => [0, (most > 0 ? most : 1) * ((happened || []).length > 0 ? 1.3 : 1.08)] } },
        axes: two,
        series: [
          { label: ticks ? "share" : x.replace(/,.*/, ""), value: (_, value) => (ticks && value !== null ? `${Number((100 * (1 - 10 ** -value)).toFixed(3))} %` : plain(value)) },
          ...series.map((label, index) => ({ label, stroke: colour(colours[index]), width: 1.6, points: { show: data[0].length < 3 }, spanGaps: true, value: (_, value) => plain(value) })),
        ],
        plugins: [marks(happened || [])],
      };
      return new uPlot(options, data, holder);
    };
    // Drawn when every card has its place, and with it its width.
    let plot;
    drawn.push({ first: () => { plot = make(); }, fit: () => plot.setSize({ width: Math.max(240, card.clientWidth - 22), height: 240 }), again: () => { plot.destroy(); plot = make(); } });
  };

  const some = (column) => column.some((value) => value !== null && value !== 0);

  for (const run of runs) {
    const place = document.getElementById(run.id);
    const { at, marks: happened } = run;
    const over = (title, y, series, columns) => {
      const kept = series.map((label, index) => [label, columns[index]]).filter(([, column]) => some(column));
      if (at.length > 1 && kept.length > 0) {
        draw(place, { title, x: "time, seconds", y, series: kept.map(([label]) => label), data: [at, ...kept.map(([, column]) => column)], happened });
      }
    };
    over("Throughput", "frames per second", ["accepted", "shown", "refused"], [run.accepted, run.shown, run.refused]);
    over("Latency over time", "milliseconds", ["p50", "p99", "p99.9"], [run.p50, run.p99, run.p999]);
    over("Memory of the relay", "MiB resident", ["RSS"], [run.rss]);
    over("Files and sockets the relay has open", "descriptors", ["open"], [run.descriptors]);
    over("Connections of the tester", "connections", ["open"], [run.connections]);
    over("CPU of the relay", "% of one core", ["CPU"], [run.cpu]);
    over("Written to disk by the relay", "MiB per second", ["written"], [run.written]);
    if (run.curve.length > 0) {
      // The farther to the right, the rarer: 90 %, 99 %, 99.9 % are equally far apart.
      const places = run.curve[0].x.map((part) => -Math.log10(1 - part));
      const last = places[places.length - 1];
      const names = { 0: "0 %", 1: "90 %", 2: "99 %", 3: "99.9 %", 4: "99.99 %", 5: "99.999 %" };
      draw(place, {
        title: "Latency by percentile",
        x: "of all frames this fast or faster",
        y: "milliseconds",
        series: run.curve.map((curve) => curve.name),
        data: [places, ...run.curve.map((curve) => curve.y)],
        log: true,
        ticks: { splits: () => [0, 1, 2, 3, 4, 5].filter((value) => value <= last), values: (_, splits) => splits.map((value) => names[value] || "") },
      });
    }
  }
  drawn.forEach((plot) => plot.first());
  let waiting;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => drawn.forEach((plot) => plot.fit()), 100); });
  dark.addEventListener("change", () => drawn.forEach((plot) => plot.again()));
})();
