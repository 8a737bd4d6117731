// Graphs of a node's figures, with uPlot. One fetch a range serves all figures of a source; between two fetches the
// page's socket brings new samples in #sample. What is unknown is a gap, never a line drawn across it.
(() => {
  if (!window.uPlot) return;  // the figures keep their fallback text

  const GIB = 2 ** 30;
  const GPU_FIGURES = ["vram", "utilization", "temperature", "power"];  // in the order of a sample's `gpus`
  const FETCH_MS = 15000;
  const CHECK_MS = 15000;
  const KEPT_SAMPLES = 30;  // more than arrive while a fetch is under way

  // `gap`: samples further apart (seconds) have something unknown between them. `stale`: fetch again after this silence.
  const RANGES = {
    "1h": { seconds: 3600, gap: 60, stale: 60, words: "the last hour", tick: { hour: "2-digit", minute: "2-digit" }, exact: { timeStyle: "medium" } },
    "24h": { seconds: 86400, gap: 180, stale: 60, words: "the last 24 hours", tick: { hour: "2-digit", minute: "2-digit" }, exact: { dateStyle: "medium", timeStyle: "short" } },
    "30d": { seconds: 2592000, gap: 2700, stale: 900, words: "the last 30 days", tick: { day: "numeric", month: "short" }, exact: { dateStyle: "medium", timeStyle: "short" } },
  };

  // `scale`: what a value is multiplied with to be in `unit`. `top`: the y axis reaches at least this far.
  const KINDS = {
    vram: { scale: 1 / GIB, unit: "GiB", digits: 1 },
    utilization: { scale: 1, unit: "%", digits: 0, top: 100 },
    temperature: { scale: 1, unit: "°C", digits: 0, top: 100 },
    power: { scale: 1, unit: "W", digits: 0 },
    cpu: { scale: 1, unit: "%", digits: 0, top: 100 },
    ram: { scale: 1 / GIB, unit: "GiB", digits: 1 },
    latency: { scale: 1, unit: "s", digits: 1 },
  };
  // Colours repeat after four lines; then the dashes differ.
  const COLOURS = 4;
  const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
  const dashOf = (place) => DASHES[(place + Math.floor(place / COLOURS)) % DASHES.length];

  const inEnglish = (value, digits) => new Intl.NumberFormat("en", { maximumFractionDigits: digits }).format(value);
  const figure = (kind, value, digits = kind.digits) => {
    if (value == null) return "unknown";
    if (kind === KINDS.latency && value < 1) return `${inEnglish(value * 1000, value < 0.01 ? 1 : 0)} ms`;
    return `${inEnglish(value, digits)} ${kind.unit}`;
  };

  const spanOf = (low, high) => {
    const [number, unit] = low.split(" ");
    return low === high ? "" : `${high.endsWith(` ${unit}`) ? number : low} to ${high}`;
  };

  const add = (parent, tag, className, text = "") => {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = text;
    parent.append(element);
    return element;
  };
  const write = (element, text) => {
    if (element.textContent !== text) element.textContent = text;
  };

  // Figures as columns: {now, at, latency, cpu, ram, gpu_names, gpus: [{vram, utilization, temperature, power}]}.
  const columns = (data) => [data.at, data.latency, data.cpu, data.ram, ...data.gpus.flatMap((gpu) => GPU_FIGURES.map((name) => gpu[name]))];

  const append = (data, sample, seconds) => {
    const length = data.at.length;
    if (length && !(sample.at > data.at[length - 1])) return;
    const gpus = sample.gpus || [];
    while (data.gpus.length < gpus.length) {
      data.gpus.push(Object.fromEntries(GPU_FIGURES.map((name) => [name, Array(length).fill(null)])));
    }
    data.at.push(sample.at);
    for (const name of ["latency", "cpu", "ram"]) data[name].push(sample[name] ?? null);
    data.gpus.forEach((gpu, index) => GPU_FIGURES.forEach((name, place) => gpu[name].push(gpus[index]?.[place] ?? null)));
    const old = data.at.findIndex((at) => at >= sample.at - seconds);
    for (const column of columns(data)) column.splice(0, old);
  };

  // uPlot breaks a line at null; where samples are missing altogether, one is put in.
  const withGaps = (at, lines, gap) => {
    const drawn = [[], ...lines.map(() => [])];
    at.forEach((time, place) => {
      if (place && time - at[place - 1] > gap) {
        drawn[0].push((time + at[place - 1]) / 2);
        lines.forEach((_, line) => drawn[line + 1].push(null));
      }
      drawn[0].push(time);
      lines.forEach((values, line) => drawn[line + 1].push(values[place]));
    });
    return drawn;
  };
  // A figure between two unknown ones makes no line: it gets a dot.
  const alone = (values) => values.flatMap((value, place) => (value != null && values[place - 1] == null && values[place + 1] == null ? [place] : []));

  const ask = async (url, range) => {
    const address = new URL(url, location.href);
    address.searchParams.set("range", range);
    let response;
    try {
      response = await fetch(address, { headers: { Accept: "application/json" }, cache: "no-store", signal: AbortSignal.timeout(FETCH_MS) });
    } catch {
      throw new Error("The figures could not be fetched: the server was not reached.");
    }
    if (response.redirected) throw new Error("You are signed out. Reload the page to sign in again.");
    if (!response.ok) throw new Error(`The figures could not be fetched: the server answered ${response.status}.`);
    try {
      return await response.json();
    } catch {
      throw new Error("The figures could not be read: the server's answer was cut off or is something else.");
    }
  };

  class Source {
    constructor(url) {
      this.url = url;
      this.range = "1h";
      this.loaded = new Map();  // range → columns
      this.recent = [];
      this.graphs = [];
      this.problem = "";
      this.skew = 0;  // seconds that the server's clock is ahead of ours
      this.newsAt = 0;
    }

    get data() { return this.loaded.get(this.range); }
    get now() { return Date.now() / 1000 + this.skew; }

    async load() {
      const range = this.range;
      let problem = "";
      this.newsAt = Date.now();
      try {
        const data = await ask(this.url, range);
        if (data.now) this.skew = data.now - Date.now() / 1000;
        this.loaded.set(range, data);
        if (range === "1h") for (const sample of this.recent) append(data, sample, RANGES[range].seconds);
      } catch (error) {
        problem = error.message;
      }
      if (range !== this.range) return;  // the reader has moved on
      this.problem = problem;
      this.draw();
    }

    choose(range) {
      this.range = range;
      this.problem = "";
      this.draw();
      this.load();
    }

    take(sample) {
      this.recent = [...this.recent, sample].slice(-KEPT_SAMPLES);
      const data = this.loaded.get("1h");
      if (!data) return;
      const missed = sample.at - data.at[data.at.length - 1] > RANGES["1h"].gap;
      append(data, sample, RANGES["1h"].seconds);
      if (this.range !== "1h") return;
      this.newsAt = Date.now();
      this.problem = "";
      this.draw();
      if (missed) this.load();  // the socket was away
    }

    refreshIfStale() {
      if (!document.hidden && Date.now() - this.newsAt > RANGES[this.range].stale * 1000) this.load();
    }

    draw() {
      if (this.frame) return;
      this.frame = requestAnimationFrame(() => {
        this.frame = null;
        for (const graph of this.graphs) graph.draw();
      });
    }
  }

  class Graph {
    constructor(box, source) {
      this.box = box;
      this.source = source;
      this.name = box.dataset.graph;
      this.kind = KINDS[this.name];
      this.isOfGpus = GPU_FIGURES.includes(this.name);
      this.names = JSON.parse(box.dataset.series || "[]");
      this.top = box.dataset.max ? box.dataset.max * this.kind.scale : this.kind.top || 0;
      this.items = [];
      this.build();
      new ResizeObserver(() => this.fit()).observe(this.area);
    }

    build() {
      this.box.querySelector(".graph-fallback")?.remove();
      this.when = add(this.box, "p", "graph-when");
      this.area = add(this.box, "div", "graph-plot");
      this.area.setAttribute("role", "img");
      this.area.hidden = true;
      this.legend = add(this.box, "ul", "graph-legend");
      this.note = add(this.box, "div", "graph-note");
      this.sentence = add(this.note, "p", "", "Fetching the figures…");
      this.again = add(this.note, "button", "btn btn-small", "Try again");
      this.again.type = "button";
      this.again.hidden = true;
      this.again.addEventListener("click", () => {
        write(this.sentence, "Fetching the figures…");
        this.source.load();
      });
    }

    get caption() { return this.box.querySelector("figcaption")?.textContent.trim() || this.name; }
    get range() { return RANGES[this.source.range]; }

    lines(data) {
      if (!this.isOfGpus) return [{ name: "", values: data[this.name] }];
      return data.gpus.map((gpu, index) => ({
        name: data.gpu_names?.[index] || this.names[index] || `GPU ${index}`,
        values: gpu[this.name],
      }));
    }

    draw() {
      const data = this.source.data;
      const lines = data ? this.lines(data).map(({ name, values }) => ({ name, values: this.scaled(values) })) : [];
      const isKnown = lines.some(({ values }) => values.some((value) => value != null));
      this.say(data, isKnown);
      this.area.hidden = this.legend.hidden = this.when.hidden = !isKnown;
      if (!isKnown) return;
      this.label(lines);
      this.to = Math.max(this.source.now, data.at[data.at.length - 1]);
      this.plot(withGaps(data.at, lines.map(({ values }) => values), this.range.gap));
      this.tell();
    }

    scaled(values) { return values.map((value) => (value == null ? null : value * this.kind.scale)); }

    say(data, isKnown) {
      const nothing = this.name === "latency" ? "It did not answer in this time." : "Unknown: this machine does not tell this figure.";
      let text = "";
      if (this.source.problem) text = this.source.problem;
      else if (!data) text = "Fetching the figures…";
      else if (!data.at.length) text = "No figures yet. They appear within 15 seconds.";
      else if (!isKnown) text = nothing;
      write(this.sentence, text);
      this.again.hidden = !this.source.problem;
      this.note.hidden = !text;
    }

    // The legend is text: a name, the latest figure or the one under the pointer, and how far it went.
    label(lines) {
      const names = lines.map(({ name }) => name).join("\n");
      if (names !== this.labelled) {
        this.labelled = names;
        this.legend.replaceChildren();
        this.items = lines.map(({ name }, place) => this.item(name, place));
      }
      lines.forEach(({ values }, place) => {
        const known = values.filter((value) => value != null);
        const low = known.reduce((least, value) => Math.min(least, value), Infinity);
        const high = known.reduce((most, value) => Math.max(most, value), -Infinity);
        const span = low < high ? spanOf(figure(this.kind, low), figure(this.kind, high)) : "";
        write(this.items[place].span, span);
        this.items[place].text = `${lines[place].name} ${figure(this.kind, values[values.length - 1])}${span && `, from ${span}`}.`.trim();
      });
      this.area.setAttribute("aria-label", `${this.caption}, ${this.range.words}. ${this.items.map(({ text }) => text).join(" ")}`);
    }

    item(name, place) {
      const row = add(this.legend, "li", "");
      const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      swatch.setAttribute("viewBox", "0 0 32 8");
      swatch.setAttribute("aria-hidden", "true");
      swatch.setAttribute("class", `graph-swatch graph-line-${(place % COLOURS) + 1}`);
      const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
      line.setAttribute("d", "M1 4h30");
      line.setAttribute("stroke-dasharray", dashOf(place).join(" "));
      swatch.append(line);
      row.append(swatch);
      if (name) add(row, "span", "", name);
      return { swatch, value: add(row, "strong", ""), span: add(row, "span", "graph-span") };
    }

    // The figures at the pointer, or the latest.
    tell() {
      const [at, ...lines] = this.drawn.data;
      const place = this.drawn.cursor.idx ?? at.length - 1;
      if (at[place] == null) return;
      lines.forEach((values, line) => write(this.items[line].value, figure(this.kind, values[place])));
      write(this.when, `at ${new Intl.DateTimeFormat(undefined, this.range.exact).format(at[place] * 1000)}`);
    }

    plot(data) {
      if (this.drawn && this.drawn.series.length === data.length) return this.drawn.setData(data);
      this.drawn?.destroy();
      this.drawn = new uPlot(this.options(data.length - 1), data, this.area);
    }

    options(count) {
      const style = () => getComputedStyle(this.area);
      const axis = { font: `13px ${style().fontFamily}`, stroke: () => style().color, ticks: { show: false }, gap: 8 };
      const series = Array.from({ length: count }, (_, place) => ({
        stroke: () => getComputedStyle(this.items[place].swatch).color,
        width: 2,
        dash: dashOf(place).map((length) => length * devicePixelRatio),
        points: { show: false, size: 6, filter: (plot, line) => alone(plot.data[line]) },
      }));
      return {
        width: this.area.clientWidth,
        height: this.area.clientHeight,
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false, setScale: false } },
        scales: {
          x: { range: () => [this.to - this.range.seconds, this.to] },
          y: { range: (_, low, high) => [0, Math.max(this.top, high * 1.1) || 1] },
        },
        axes: [
          { ...axis, grid: { show: false }, space: 76, size: 28, values: (_, times) => this.times(times) },
          { ...axis, grid: { stroke: () => style().borderBlockEndColor, width: 1 }, space: 34, size: (_, labels) => this.margin(labels), values: (_, values) => values.map((value) => figure(this.kind, value, 2)) },
        ],
        series: [{}, ...series],
        hooks: { setCursor: [(plot) => { if (plot === this.drawn) this.tell(); }] },
      };
    }

    times(times) {
      const format = new Intl.DateTimeFormat(undefined, this.range.tick);
      return times.map((time) => format.format(time * 1000));
    }

    margin(labels) { return 16 + 7 * Math.max(4, ...(labels || []).map((label) => label.length)); }

    fit() {
      const { clientWidth: width, clientHeight: height } = this.area;
      if (width && this.drawn && width !== this.drawn.width) this.drawn.setSize({ width, height });
    }

    repaint() { this.drawn?.redraw(false); }
  }

  const sources = new Map();
  const begin = (box) => {
    if (!KINDS[box.dataset.graph]) return;
    const url = box.dataset.source;
    if (!sources.has(url)) sources.set(url, new Source(url));
    const source = sources.get(url);
    const chosen = box.closest(".graphs")?.querySelector("[data-graph-range]:checked");
    if (chosen) source.range = chosen.value;
    source.graphs.push(new Graph(box, source));
  };
  document.querySelectorAll("figure[data-graph][data-source]").forEach(begin);
  if (!sources.size) return;

  document.addEventListener("change", (event) => {
    if (!event.target.matches("[data-graph-range]")) return;
    const urls = [...event.target.closest(".graphs").querySelectorAll("figure[data-source]")].map((box) => box.dataset.source);
    for (const url of new Set(urls)) sources.get(url)?.choose(event.target.value);
  });

  let lastSample = document.getElementById("sample")?.dataset.sample;
  const takeSample = () => {
    const text = document.getElementById("sample")?.dataset.sample;
    if (!text || text === lastSample) return;
    lastSample = text;
    const sample = JSON.parse(text);
    for (const source of sources.values()) source.take(sample);
  };
  new MutationObserver(takeSample).observe(document.body, { attributes: true, attributeFilter: ["data-sample"], childList: true, subtree: true });

  const repaint = () => {
    for (const source of sources.values()) for (const graph of source.graphs) graph.repaint();
  };
  new MutationObserver(repaint).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: light)").addEventListener("change", repaint);
  document.fonts.ready.then(repaint);

  const refresh = () => sources.forEach((source) => source.refreshIfStale());
  setInterval(refresh, CHECK_MS);
  document.addEventListener("visibilitychange", refresh);
  sources.forEach((source) => source.load());
})();
