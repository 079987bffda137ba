// Keeps the page up to date and draws the charts. Everything that is text comes from the server as it is to be shown.
"use strict";
(() => {
  const keep = 1800; // points, as on the server
  const times = [];
  const series = new Map(); // by uplink: one list for each of rtt, jitter, loss, in, out, connections
  const charts = [];
  const visible = new Set();
  let range = 300;
  const live = document.getElementById("live");

  // What the server sends.

  function show(parts) {
    for (const id in parts) {
      const e = document.getElementById(id);
      if (e && e.innerHTML !== parts[id]) e.innerHTML = parts[id]; // escaped by the server
    }
    if ("log" in parts) localise();
  }

  // The server writes the router's clock; the charts have the browser's.
  function localise() {
    for (const e of document.querySelectorAll("#log time[datetime]")) {
      const t = Date.parse(e.dateTime) / 1000;
      e.textContent = day(t) + " " + clock(t);
    }
  }

  function append(t, points) {
    while (times.length && t <= times[times.length - 1]) { // the clock was set back
      times.pop();
      for (const lists of series.values()) lists.forEach((list) => list.pop());
    }
    for (const name in points) { // the history has not come yet
      if (!series.has(name)) series.set(name, points[name].map(() => times.map(() => null)));
    }
    times.push(t);
    const old = times.length > keep;
    if (old) times.shift();
    for (const [name, lists] of series) {
      const p = points[name] || [];
      lists.forEach((list, i) => {
        list.push(p[i] ?? null);
        if (old) list.shift();
      });
    }
    redraw();
  }

  let retry = 0;
  function connect() {
    const source = new EventSource("/events");
    source.onopen = () => {
      live.textContent = "live";
      live.classList.remove("lost");
      if (retry++) load(); // what was missed meanwhile
    };
    source.onmessage = (m) => {
      const d = JSON.parse(m.data);
      if (d.uplinks !== document.body.dataset.uplinks) {
        // Another configuration: the page is loaded again, but not by all who look at once.
        source.close();
        live.textContent = "the uplinks have changed: loading the page again …";
        setTimeout(() => location.reload(), 5000 * Math.random());
        return;
      }
      show(d.parts);
      if (d.points) append(d.t, d.points);
    };
    source.onerror = () => {
      live.textContent = "no connection to the agent: what you see is old";
      live.classList.add("lost");
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
    };
  }

  let again = 0;
  async function load() {
    clearTimeout(again);
    let wait = 5000; // nobody answers
    try {
      const r = await fetch("/history");
      if (r.ok) {
        const h = await r.json();
        times.splice(0, times.length, ...h.t);
        series.clear();
        for (const name in h.u) series.set(name, h.u[name]);
        redraw();
        return;
      }
      wait = 1000; // too many ask just now
    } catch {}
    clearTimeout(again);
    again = setTimeout(load, wait * (0.8 + 0.4 * Math.random()));
  }

  // Charts.

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  function bits(v) {
    if (v == null) return "–";
    v = Math.abs(v);
    for (const unit of ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"]) {
      if (v < 1000 || unit === "Gbit/s") return (v >= 10 || unit === "bit/s" ? v.toFixed(0) : v.toFixed(1)) + " " + unit;
      v /= 1000;
    }
  }
  // The same in few letters, for axes.
  function short(v) {
    v = Math.abs(v);
    for (const unit of ["", "k", "M", "G"]) {
      if (v < 1000 || unit === "G") return +v.toPrecision(3) + unit;
      v /= 1000;
    }
  }
  const ms = (v) => (v == null ? "–" : (v < 10 ? v.toFixed(1) : v.toFixed(0)) + " ms");
  const clock = (t) => new Date(t * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const day = (t) => new Date(t * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short" });

  // What each kind of chart shows, of an uplink's lists.
  const kinds = {
    rtt: {
      data: ([rtt, jitter, loss]) => [rtt.map((v, i) => (v == null ? null : v + (jitter[i] || 0))), rtt.map((v, i) => (v == null ? null : Math.max(0, v - (jitter[i] || 0)))), rtt, loss],
      series: () => [
        { stroke: "transparent", points: { show: false } },
        { stroke: "transparent", points: { show: false } },
        { stroke: colour("rtt"), width: 1.5, points: { show: false } },
        { stroke: colour("loss"), fill: colour("loss"), width: 0, scale: "%", paths: uPlot.paths.bars({ size: [0.8, 12, 1] }), points: { show: false } },
      ],
      bands: () => [{ series: [1, 2], fill: colour("smoke") }],
      axes: [(u, v) => v.map((x) => +x.toFixed(2) + " ms"), (u, v) => v.map((x) => x + " %")],
      y: (u, min, max) => [0, Math.max(1, (max || 0) * 1.15)],
      text: (v) => ms(v[2]) + ", loss " + (v[3] == null ? "–" : v[3].toFixed(v[3] % 1 ? 1 : 0) + " %"),
    },
    rate: {
      data: ([, , , down, up]) => [down, up.map((v) => (v == null ? null : -v))],
      series: () => [
        { stroke: colour("in"), fill: colour("in") + "40", width: 1.5, points: { show: false } },
        { stroke: colour("out"), fill: colour("out") + "40", width: 1.5, points: { show: false } },
      ],
      axes: [(u, v) => v.map(short)],
      y: (u, min, max) => [Math.min(min || 0, -1000) * 1.15, Math.max(max || 0, 1000) * 1.15],
      text: (v) => "↑ " + bits(v[0]) + " ↓ " + bits(v[1]),
    },
    con: {
      data: ([, , , , , n]) => [n],
      series: () => [{ stroke: colour("con"), fill: colour("con") + "30", width: 1.5, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } }],
      axes: [(u, v) => v.map((x) => (x % 1 ? "" : short(x)))],
      y: (u, min, max) => [0, Math.max(4, (max || 0) * 1.15)],
      text: (v) => (v[0] == null ? "–" : v[0] + " connections"),
    },
  };

  function options(kind, box, key) {
    const axis = { stroke: colour("muted"), grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    return {
      width: box.clientWidth,
      height: box.clientHeight,
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false }, sync: { key } },
      scales: { x: { time: true, range: () => window_() }, y: { range: kind.y }, "%": { range: [0, 100] } },
      series: [{}, ...kind.series()],
      bands: kind.bands ? kind.bands() : undefined,
      axes: [
        { ...axis, space: 80, size: 26, values: (u, v) => v.map((t) => clock(t).slice(0, v[1] - v[0] >= 60 ? 5 : 8)) },
        { ...axis, size: 52, space: 22, values: kind.axes[0] },
        ...(kind.axes[1] ? [{ ...axis, scale: "%", side: 1, size: 44, grid: { show: false }, values: kind.axes[1], splits: [0, 50, 100] }] : []),
      ],
      padding: [8, kind.axes[1] ? 0 : 8, 0, 0],
      hooks: {
        init: [(u) => u.over.append(tip)],
        setCursor: [(u) => {
          const i = u.cursor.idx;
          tip.hidden = i == null || u.cursor.left < 0;
          if (tip.hidden) return;
          tip.textContent = clock(u.data[0][i]) + "  " + kind.text(u.data.slice(1).map((s) => s[i]));
          const right = u.cursor.left > u.over.clientWidth / 2;
          tip.style.left = right ? "" : u.cursor.left + 8 + "px";
          tip.style.right = right ? u.over.clientWidth - u.cursor.left + 8 + "px" : "";
        }],
      },
    };
  }

  // The time that is shown: no more than is known, but a minute.
  function window_() {
    const end = times.length ? times[times.length - 1] : Date.now() / 1000;
    return [Math.min(Math.max(end - range, times[0] ?? 0), end - 60), end];
  }

  // Only what is seen is drawn, and at most once a frame.
  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      let from = 0;
      const begin = window_()[0] - 4;
      while (from < times.length && times[from] < begin) from++;
      const t = times.slice(from);
      for (const c of charts) {
        const lists = series.get(c.name);
        if (!visible.has(c.box) || !lists) continue;
        c.plot.setData([t, ...c.kind.data(lists.map((l) => l.slice(from)))]);
      }
    });
  }

  function build() {
    for (const c of charts.splice(0)) c.plot.destroy();
    for (const box of document.querySelectorAll(".plot")) {
      const name = box.closest("[data-uplink]").dataset.uplink;
      const kind = kinds[box.dataset.kind];
      charts.push({ name, box, kind, plot: new uPlot(options(kind, box, name), [[], ...kind.series().map(() => [])], box) });
    }
    redraw();
  }

  // The form is answered without leaving the page.

  document.querySelector("form").addEventListener("submit", async (e) => {
    e.preventDefault();
    const answer = document.getElementById("answer");
    const query = new URLSearchParams(new FormData(e.target));
    try {
      const r = await fetch("/explain?" + query);
      const text = await r.text();
      const page = new DOMParser().parseFromString(text, "text/html").getElementById("answer");
      if (page) answer.replaceChildren(...page.childNodes);
      else answer.textContent = text;
    } catch {
      answer.textContent = "The agent does not answer.";
    }
  });

  document.querySelector("fieldset").addEventListener("change", (e) => {
    range = +e.target.value;
    redraw();
  });

  document.getElementById("charts").hidden = !document.querySelector(".plot");
  live.hidden = false;
  localise();
  document.getElementById("zone")?.remove();
  const seen = new IntersectionObserver((entries) => {
    for (const e of entries) e.isIntersecting ? visible.add(e.target) : visible.delete(e.target);
    redraw();
  });
  const sized = new ResizeObserver((entries) => {
    for (const e of entries) {
      const c = charts.find((c) => c.box === e.target);
      if (c && e.contentRect.width) c.plot.setSize({ width: e.contentRect.width, height: e.contentRect.height });
    }
  });
  build();
  for (const c of charts) {
    seen.observe(c.box);
    sized.observe(c.box);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", build);
  load().then(connect);
})();
