// What a script adds to pages that are whole without it: they stay fresh, times can be local, keys.
"use strict";
(() => {
  const body = document.body, root = document.documentElement, page = document.getElementById("page");
  const live = document.getElementById("live"), word = live.querySelector(".word");
  const refreshMs = Number(body.dataset.refresh) * 1000;
  root.classList.add("has-js");

  // --- kept choices ---
  const keep = (name, value) => { try { localStorage.setItem("taskq-" + name, value); } catch { /* private window */ } };
  const kept = (name) => { try { return localStorage.getItem("taskq-" + name); } catch { return null; } };

  function setTheme(theme) {
    root.dataset.theme = theme;
    // The server paints the next page in it at once.
    document.cookie = `taskq_theme=${theme}; path=${body.dataset.root || "/"}; max-age=31536000; samesite=strict`;
    keep("theme", theme);
    drawCharts(true);
  }
  function turnTheme() {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    setTheme(dark ? "light" : "dark");
  }

  // --- times ---
  const zone = document.getElementById("zone");
  let local = kept("zone") === "local";
  const two = (n) => String(n).padStart(2, "0");
  function clockText(date, today) {
    const get = (d, part) => (local ? d["get" + part]() : d["getUTC" + part]());
    const sameDay = ["FullYear", "Month", "Date"].every((part) => get(date, part) === get(today, part));
    const hm = two(get(date, "Hours")) + ":" + two(get(date, "Minutes"));
    if (sameDay) return hm + ":" + two(get(date, "Seconds"));
    const month = date.toLocaleString("en", { month: "short", timeZone: local ? undefined : "UTC" });
    const year = get(date, "FullYear") === get(today, "FullYear") ? "" : " " + get(date, "FullYear");
    return get(date, "Date") + " " + month + year + " " + hm;
  }
  function showTimes(within) {
    const today = new Date();
    zone.textContent = local ? "local" : "UTC";
    for (const time of within.querySelectorAll("time")) {
      const date = new Date(time.dateTime);
      if (isNaN(date)) continue;
      time.title = local ? date.toLocaleString() : time.dateTime;
      if (time.classList.contains("at")) time.textContent = clockText(date, today);
    }
  }
  zone.addEventListener("click", () => turnZone());
  function turnZone() { local = !local; keep("zone", local ? "local" : "utc"); showTimes(document); drawCharts(true); }

  // --- live ---
  let held = false, polling = 0, source = null, failures = 0, lastAt = 0;
  function say(state, text) { live.dataset.state = state; if (word.textContent !== text) word.textContent = text; }
  function show(html) {
    if (held) return;
    const row = chosenHref();
    htmx.swap({ target: page, sourceElement: page, swap: "innerMorph", text: html, transition: false }).then(() => {
      showTimes(page);
      choose(row, false);
      drawCharts(false);
    }).catch(() => location.reload());
  }
  function here() { return location.pathname.slice(body.dataset.root.length) + location.search; }
  function listen() {
    if (!window.EventSource || document.hidden) return;
    source = new EventSource(body.dataset.root + "/events?view=" + encodeURIComponent(here()));
    source.addEventListener("page", (event) => { failures = 0; lastAt = Date.now(); say(held ? "held" : "on", held ? "held (p)" : "live"); show(event.data); });
    source.addEventListener("same", () => { failures = 0; lastAt = Date.now(); if (live.dataset.state !== "held") say("on", "live"); });
    source.addEventListener("away", (event) => { say("lost", event.data); });
    source.onerror = () => {
      failures += 1;
      if (source.readyState === EventSource.CLOSED || failures >= 3) { hangUp(); poll(); } else say("lost", "reconnecting");
    };
  }
  function hangUp() { if (source) source.close(); source = null; }
  async function poll() {
    clearTimeout(polling);
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { headers: { "Taskq-Inside": "1" }, cache: "no-store" });
      const text = await answer.text();
      if (answer.headers.get("Taskq-Inside")) { show(text); say("poll", "every " + Math.round(Math.max(refreshMs, 3000) / 1000) + " s"); } else say("lost", "no answer");
    } catch { say("lost", "no connection"); }
    polling = setTimeout(() => { polls += 1; if (polls % 20 === 0) { failures = 0; listen(); } else poll(); }, Math.max(refreshMs, 3000));
  }
  let polls = 0;
  document.addEventListener("visibilitychange", () => {
    if (!body.dataset.live) return;
    if (document.hidden) { hangUp(); clearTimeout(polling); } else if (!source) { failures = 0; listen(); }
  });
  addEventListener("pagehide", hangUp);
  addEventListener("pageshow", (event) => { if (event.persisted && body.dataset.live) listen(); });
  function hold() { held = !held; say(held ? "held" : "on", held ? "held (p)" : "live"); }

  // --- rows by keys ---
  const rows = () => [...page.querySelectorAll("tr[data-row]")];
  const link = (row) => row && row.querySelector("a[href]:not(.plain)") || row && row.querySelector("a[href]");
  function chosenHref() { const row = page.querySelector("tr.at"); return row && link(row) ? link(row).getAttribute("href") : null; }
  function choose(href, move) {
    for (const row of rows()) {
      const is = href !== null && !!link(row) && link(row).getAttribute("href") === href;
      row.classList.toggle("at", is);
      if (is && move) { link(row).focus({ preventScroll: true }); row.scrollIntoView({ block: "nearest" }); }
    }
  }
  function step(by) {
    const all = rows().filter(link);
    if (!all.length) return;
    const at = all.findIndex((row) => row.classList.contains("at"));
    const next = all[Math.min(Math.max(at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by, 0), all.length - 1)];
    choose(link(next).getAttribute("href"), true);
  }
  const help = document.getElementById("help");
  const places = { o: "/", j: "/jobs", f: "/failures", w: "/workers", s: "/schedules" };
  let going = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const field = event.target.closest("input, select, textarea");
    if (field) { if (event.key === "Escape") field.blur(); return; }
    if (help.open) return;
    if (Date.now() - going < 1200 && event.key in places) { location.href = body.dataset.root + places[event.key]; return; }
    const filter = document.getElementById("filter");
    const keys = {
      "/": () => filter ? (filter.focus(), filter.select()) : (location.href = body.dataset.root + "/jobs"),
      j: () => step(1), k: () => step(-1), d: turnTheme, t: turnZone, "?": () => help.showModal(),
      p: () => body.dataset.live && hold(), g: () => { going = Date.now(); },
    };
    if (Object.hasOwn(keys, event.key)) { event.preventDefault(); keys[event.key](); }
  });
  document.getElementById("theme").addEventListener("click", turnTheme);
  document.getElementById("keys").addEventListener("click", () => help.showModal());
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const text = document.getElementById(button.dataset.copy).textContent;
    navigator.clipboard?.writeText(text).then(() => { button.textContent = "Copied"; setTimeout(() => { button.textContent = "Copy"; }, 1500); });
  });
  document.addEventListener("change", (event) => { if (event.target.matches(".filter select")) event.target.form.requestSubmit(); });

  // --- charts: the server's lines stay until uPlot has its own, with values under the pointer ---
  const CHARTS_MS = 15000;
  let uplot = null, drawn = [], drawnAt = 0;
  function load() {
    uplot ??= new Promise((done, failed) => {
      const sheet = Object.assign(document.createElement("link"), { rel: "stylesheet", href: body.dataset.uplotCss });
      const script = Object.assign(document.createElement("script"), { src: body.dataset.uplot, onload: done, onerror: failed });
      document.head.append(sheet, script);
    });
    return uplot;
  }
  const color = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const KINDS = {
    flow: [["in", "soft", (p) => p.counts.enqueued, [4, 3]], ["out", "good", (p) => p.counts.finished], ["failed", "bad", (p) => p.counts.failed]],
    depth: [["waiting", "accent", (p) => p.depth]],
    wait: ["p50", "p95", "p99"].map((q, i) => [q, ["accent", "warn", "bad"][i], (p) => p.wait[q], i === 2 ? [4, 3] : undefined]),
    run: ["p50", "p95", "p99"].map((q, i) => [q, ["accent", "warn", "bad"][i], (p) => p.run[q], i === 2 ? [4, 3] : undefined]),
  };
  function axisText(at, step) {
    const date = new Date(at * 1000), get = (part) => (local ? date["get" + part]() : date["getUTC" + part]());
    const month = date.toLocaleString("en", { month: "short", timeZone: local ? undefined : "UTC" });
    return step >= 86400 ? get("Date") + " " + month : two(get("Hours")) + ":" + two(get("Minutes"));
  }
  async function drawCharts(again) {
    const plots = [...page.querySelectorAll(".plot[data-series]")];
    if (!plots.length || innerWidth < 900 || (!again && Date.now() - drawnAt < CHARTS_MS)) return;
    drawnAt = Date.now();
    drawn = drawn.filter((one) => one.root.isConnected);
    if (again) { for (const one of drawn) one.destroy(); drawn = []; }
    try {
      await load();
      const answers = new Map();
      for (const plot of plots) {
        const place = plot.dataset.series;
        if (!answers.has(place)) answers.set(place, fetch(place).then((answer) => answer.json()));
        draw(plot, (await answers.get(place)).series);
      }
    } catch { /* the server's own lines are there */ }
  }
  function draw(plot, series) {
    const kinds = KINDS[plot.dataset.chart];
    // The present step is not over: its counts would look like a fall.
    const points = plot.dataset.chart === "flow" ? series.points.slice(0, -1) : series.points;
    const data = [points.map((p) => Date.parse(p.at) / 1000), ...kinds.map(([, , value]) => points.map((p) => value(p) ?? null))];
    const old = drawn.find((one) => one.root.parentElement === plot);
    if (old) { old.setData(data); return; }
    const axis = { stroke: color("soft"), font: "11px system-ui", grid: { stroke: color("line-soft"), width: 1 }, ticks: { show: false }, border: { show: false } };
    const chart = new uPlot({
      width: plot.clientWidth, height: 180, cursor: { points: { size: 5 }, y: false },
      tzDate: (at) => local ? new Date(at * 1000) : uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
      scales: { y: { range: (u, low, high) => [0, high > 0 ? high * 1.08 : 1] } },
      axes: [{ ...axis, size: 26, space: 70, values: (u, all, axisAt, space, step) => all.map((at) => axisText(at, step)) }, { ...axis, size: 48, values: (u, all) => all.map((n) => n >= 1e6 ? n / 1e6 + "M" : n >= 1e4 ? n / 1e3 + "k" : n) }],
      series: [{ value: (u, at) => at === null ? "" : axisText(at, 60) }, ...kinds.map(([label, tone, , dash]) => ({ label, stroke: color(tone), width: 1.6, dash, points: { show: false }, fill: dash ? undefined : color(tone) + "1a" }))],
    }, data, plot);
    plot.querySelector("svg.chart")?.classList.add("u-hidden");
    plot.setAttribute("hx-morph-skip", "");
    drawn.push(chart);
  }
  let resizing = 0;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => { for (const one of drawn) one.setSize({ width: one.root.parentElement.clientWidth, height: 180 }); }, 150); });

  showTimes(document);
  if (body.dataset.live) listen();
  drawCharts(false);
})();
