"use strict";
// The console shows what /v1 says, once a second, and tails one topic. Whatever
// comes from records or names is set with textContent, never as markup.

const $ = (id) => document.getElementById(id);
const pollEvery = 1000;
const keepRecords = 1000; // newest kept in the page
const drawAtOnce = 200; // records put into the page per frame at most

const number = new Intl.NumberFormat("en");
const show = (n) => (n < 0 ? "–" : number.format(n));

// el makes an element with a class and children; strings become text nodes.
function el(tag, className, ...children) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  e.append(...children);
  return e;
}

// rows updates a table body so that unchanged rows stay the same elements:
// selection, focus and hover survive a poll. Each row is {key, className, cells}.
function rows(tbody, list) {
  const old = new Map([...tbody.rows].map((tr) => [tr.dataset.key, tr]));
  list.forEach((row, i) => {
    let tr = old.get(row.key);
    old.delete(row.key);
    const sign = JSON.stringify([row.className, row.cells.map((c) => c.sign ?? c)]);
    if (!tr || tr.sign !== sign) {
      const fresh = el("tr", row.className);
      fresh.dataset.key = row.key;
      fresh.sign = sign;
      for (const c of row.cells) {
        const content = c.node ? c.node() : String(c.text ?? c);
        fresh.append(el("td", c.className, content));
      }
      if (tr) {
        const focused = tr.contains(document.activeElement);
        tr.replaceWith(fresh);
        if (focused) fresh.querySelector("button")?.focus();
      }
      tr = fresh;
    }
    if (tbody.rows[i] !== tr) tbody.insertBefore(tr, tbody.rows[i] ?? null);
  });
  for (const tr of old.values()) tr.remove();
}

// ---- overview ----

const expanded = new Set();
let topics = [];
let history = new Map(); // topic/partition → {at, high_watermark, rate}

async function get(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function poll() {
  try {
    const [cluster, list] = await Promise.all([get("/v1/cluster"), get("/v1/topics")]);
    measure(list, performance.now());
    topics = list;
    drawStatus(cluster);
    drawBrokers(cluster.brokers);
    drawTopics();
    drawTopicChoice();
  } catch {
    setStatus("bad", "this broker does not answer; trying again");
  }
  setTimeout(poll, pollEvery);
}

// measure derives records per second from two looks at the high watermarks,
// smoothed over a few polls.
function measure(list, now) {
  const next = new Map();
  for (const t of list) {
    for (const p of t.partitions) {
      const key = `${t.topic}/${p.partition}`;
      const before = history.get(key);
      let rate = -1;
      if (before && before.hw >= 0 && p.high_watermark >= before.hw && now > before.at) {
        const present = ((p.high_watermark - before.hw) * 1000) / (now - before.at);
        rate = before.rate < 0 ? present : before.rate * 0.5 + present * 0.5;
        if (rate < 0.05) rate = 0;
      }
      next.set(key, { at: now, hw: p.high_watermark, rate });
    }
  }
  history = next;
}

const rateOf = (topic, partition) => history.get(`${topic}/${partition}`)?.rate ?? -1;
const showRate = (r) => (r < 0 ? "–" : number.format(r < 10 ? Math.round(r * 10) / 10 : Math.round(r)));
const sum = (values) => values.reduce((a, b) => (b < 0 ? a : (a < 0 ? 0 : a) + b), -1);

function setStatus(level, text) {
  document.querySelector("#status .dot").className = `dot ${level}`;
  $("status-text").textContent = text;
}

function drawStatus(c) {
  $("cluster").textContent = c.cluster_id ? `cluster ${c.cluster_id} · broker ${c.self}` : `broker ${c.self}`;
  const alive = c.brokers.filter((b) => b.alive).length;
  if (!c.ready) setStatus("bad", `not ready: ${c.not_ready_reason}`);
  else if (c.leaderless_partitions > 0) setStatus("bad", `${c.leaderless_partitions} partitions have no leader`);
  else if (c.under_min_isr_partitions > 0) setStatus("bad", `${c.under_min_isr_partitions} partitions refuse writes`);
  else if (c.under_replicated_partitions > 0) setStatus("warn", `${c.under_replicated_partitions} partitions lack an in-sync replica`);
  else setStatus("ok", "all partitions in sync");
  const rate = sum(topics.flatMap((t) => t.partitions.map((p) => rateOf(t.topic, p.partition))));
  tiles([
    ["Brokers", `${alive} / ${c.brokers.length}`, alive < c.brokers.length ? "bad" : ""],
    ["Topics", show(c.topics)],
    ["Partitions", show(c.partitions)],
    ["Degraded", show(c.under_replicated_partitions), c.under_replicated_partitions ? "warn" : ""],
    ["Records/s", showRate(rate)],
  ]);
}

function tiles(list) {
  const dl = $("tiles");
  list.forEach(([name, value, level], i) => {
    const tile = dl.children[i] ?? dl.appendChild(el("div", "", el("dt"), el("dd")));
    tile.children[0].textContent = name;
    tile.children[1].textContent = value;
    tile.children[1].className = level ?? "";
  });
}

function drawBrokers(brokers) {
  rows($("brokers").tBodies[0], brokers.map((b) => {
    const roles = [b.alive ? "alive" : "down"];
    if (b.controller) roles.push("controller");
    else if (b.role && b.role !== "leader") roles.push(b.role);
    return {
      key: String(b.id),
      cells: [
        { text: b.id },
        { className: b.alive ? "ok" : "bad", text: roles.join(", "), sign: [b.alive, roles] },
        { text: `${b.host}:${b.port}` },
        { text: b.rack || "–" },
        { className: "n", text: show(b.leaders) },
        { className: "n", text: show(b.replicas) },
      ].map((c) => ({ sign: c.text, ...c })),
    };
  }));
}

// isShort says whether a partition's in-sync set is below its target.
const isShort = (t, p) => p.isr.length < Math.min(t.sync_replicas || Infinity, p.replicas.length);

// replicaChips shows every replica of a partition: leader, in sync, outside, off.
function replicaChips(t, p) {
  return p.replicas.map((r) => {
    let className = "chip";
    let title = `broker ${r.broker}: ${r.state}`;
    if (r.broker === p.leader) className += " leader";
    else if (r.state === "offline") className += " off";
    else if (!p.isr.includes(r.broker)) className += isShort(t, p) ? " out" : " async";
    if (r.lag > 0) title += `, ${number.format(r.lag)} behind`;
    if (r.suspect) title += ", suspect";
    if (r.damaged) title += ", damaged";
    return { className, title, text: `${r.broker}${r.damaged ? "!" : r.suspect ? "?" : ""}` };
  });
}

function chipCell(chips) {
  return {
    sign: chips,
    node: () => {
      const span = el("span");
      for (const c of chips) {
        const chip = el("span", c.className, c.text);
        chip.title = c.title;
        span.append(chip);
      }
      return span;
    },
  };
}

function topicCells(t) {
  const leaders = new Set(t.partitions.map((p) => p.leader));
  const missing = t.partitions.filter((p) => isShort(t, p)).length;
  const without = t.partitions.filter((p) => p.leader < 0).length;
  const isOpen = expanded.has(t.topic);
  return [
    { sign: [t.topic, isOpen], node: () => topicButton(t.topic, isOpen) },
    without
      ? { className: "bad", text: `${without} without` }
      : { className: "quiet", text: leaders.size === 1 ? `broker ${[...leaders][0]}` : `${leaders.size} brokers` },
    missing ? { className: "warn", text: `${t.partitions.length - missing} of ${t.partitions.length}` } : { className: "ok", text: `${t.partitions.length} of ${t.partitions.length}` },
    { className: "n", text: show(sum(t.partitions.map((p) => p.high_watermark))) },
    { className: "n", text: showRate(sum(t.partitions.map((p) => rateOf(t.topic, p.partition)))) },
  ].map((c) => ({ sign: [c.text, c.className], ...c }));
}

function topicButton(topic, isOpen) {
  const button = el("button", "open", topic);
  button.type = "button";
  button.setAttribute("aria-expanded", String(isOpen));
  button.addEventListener("click", () => {
    if (!expanded.delete(topic)) expanded.add(topic);
    drawTopics();
  });
  return button;
}

function drawTopics() {
  const visible = topics.filter((t) => !t.internal || $("internal").checked);
  const list = [];
  for (const t of visible) {
    list.push({ key: t.topic, cells: topicCells(t) });
    if (!expanded.has(t.topic)) continue;
    for (const p of t.partitions) {
      list.push({
        key: `${t.topic}/${p.partition}`,
        className: "part",
        cells: [
          { text: `partition ${p.partition}` },
          { className: p.leader < 0 ? "bad" : "", text: p.leader < 0 ? "none" : `broker ${p.leader}, epoch ${p.leader_epoch}` },
          chipCell(replicaChips(t, p)),
          { className: "n", text: show(p.high_watermark) },
          { className: "n", text: showRate(rateOf(t.topic, p.partition)) },
        ].map((c) => ({ sign: [c.text, c.className], ...c })),
      });
    }
  }
  rows($("topics").tBodies[0], list);
  $("no-topics").hidden = visible.length > 0;
}

// ---- tail ----

function drawTopicChoice() {
  const select = $("tail-topic");
  const names = topics.filter((t) => !t.internal || $("internal").checked).map((t) => t.topic);
  options(select, names.map((n) => [n, n]));
  drawPartitionChoice();
}

function drawPartitionChoice() {
  const t = topics.find((x) => x.topic === $("tail-topic").value);
  const numbers = t ? t.partitions.map((p) => [String(p.partition), String(p.partition)]) : [];
  options($("tail-partition"), [["", "all"], ...numbers]);
}

// options replaces the choices of a select when they differ, keeping the choice.
function options(select, list) {
  const sign = JSON.stringify(list);
  if (select.sign === sign) return;
  select.sign = sign;
  const chosen = select.value;
  select.replaceChildren(...list.map(([value, text]) => {
    const option = el("option", "", text);
    option.value = value;
    return option;
  }));
  if (list.some(([value]) => value === chosen)) select.value = chosen;
}

const tail = { socket: null, paused: false, records: [], waiting: [], scheduled: false, seen: 0, dropped: 0 };

function startTail() {
  stopTail();
  const topic = $("tail-topic").value;
  if (!topic) return;
  clearRecords();
  const query = new URLSearchParams({ from: $("tail-from").value });
  if ($("tail-partition").value) query.set("partition", $("tail-partition").value);
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/v1/topics/${encodeURIComponent(topic)}/tail?${query}`);
  tail.socket = socket;
  tailState(`opening ${topic}…`);
  socket.onopen = () => { if (tail.socket === socket) tailState(`tailing ${topic}`); };
  socket.onmessage = (event) => { if (tail.socket === socket) receive(JSON.parse(event.data)); };
  socket.onclose = (event) => {
    if (tail.socket !== socket) return;
    tail.socket = null;
    buttons();
    tailState(event.reason ? `closed: ${event.reason}` : "closed: the broker cannot be reached or refuses this topic", "warn");
  };
  buttons();
}

function stopTail() {
  const socket = tail.socket;
  tail.socket = null;
  tail.paused = false;
  if (socket) socket.close(1000);
  buttons();
}

function buttons() {
  $("tail-go").textContent = tail.socket ? "Stop" : "Tail";
  $("tail-pause").disabled = !tail.socket;
  $("tail-pause").textContent = tail.paused ? "Resume" : "Pause";
}

function tailState(text, level) {
  const state = $("tail-state");
  state.textContent = text;
  state.className = level ?? "quiet";
}

// receive queues a record for the next frame; a paused or slow page drops the
// oldest that wait rather than grow.
function receive(record) {
  tail.seen++;
  tail.waiting.push(record);
  if (tail.waiting.length > keepRecords) {
    tail.waiting.shift();
    tail.dropped++;
  }
  schedule();
}

function schedule() {
  if (tail.scheduled || (tail.paused && tail.socket)) { count(); return; }
  tail.scheduled = true;
  requestAnimationFrame(() => {
    tail.scheduled = false;
    drawRecords();
    if (tail.waiting.length && !tail.paused) schedule();
  });
}

function count() {
  if (!tail.socket) return;
  const notes = [`${number.format(tail.seen)} records`];
  if (tail.paused) notes.push(`paused, ${number.format(tail.waiting.length)} waiting`);
  if (tail.dropped) notes.push(`${number.format(tail.dropped)} not shown`);
  tailState(notes.join(" · "));
}

function drawRecords() {
  const list = $("records");
  const top = list.scrollTop;
  const height = list.scrollHeight;
  for (const record of tail.waiting.splice(0, drawAtOnce)) {
    const item = recordItem(record);
    item.hidden = !matches(item);
    list.prepend(item);
  }
  while (list.childElementCount > keepRecords) list.lastElementChild.remove();
  // Whoever scrolled down to read keeps the place.
  if (top > 4) list.scrollTop = top + (list.scrollHeight - height);
  count();
}

const decoder = new TextDecoder();
function bytes(text, base64) {
  if (base64 === undefined) return text;
  const raw = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return decoder.decode(raw);
}

function recordItem(r) {
  const item = el("li", "fresh");
  const meta = el("div", "meta",
    el("span", "", `${r.partition}:${r.offset}`),
    el("time", "", new Date(r.timestamp).toLocaleTimeString("en-GB", { hour12: false }) + "." + String(r.timestamp % 1000).padStart(3, "0")));
  const key = bytes(r.key ?? null, r.key_b64);
  if (key !== null) meta.append(el("span", "key", key));
  for (const h of r.headers) meta.append(el("span", "", `${h.key}=${bytes(h.value ?? "", h.value_b64)}`));
  const value = bytes(r.value ?? null, r.value_b64);
  const body = value === null ? el("div", "value none", "tombstone") : el("div", "value", value);
  item.append(meta, body);
  item.search = item.textContent.toLowerCase();
  return item;
}

const matches = (item) => item.search.includes($("tail-filter").value.toLowerCase());

function clearRecords() {
  tail.waiting = [];
  tail.seen = tail.dropped = 0;
  $("records").replaceChildren();
}

$("tail-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (tail.socket) { stopTail(); tailState("stopped"); } else startTail();
});
$("tail-pause").addEventListener("click", () => {
  tail.paused = !tail.paused;
  buttons();
  schedule();
});
$("tail-clear").addEventListener("click", () => { clearRecords(); count(); });
$("tail-filter").addEventListener("input", () => {
  for (const item of $("records").children) item.hidden = !matches(item);
});
$("tail-topic").addEventListener("change", () => {
  drawPartitionChoice();
  if (tail.socket) startTail();
});
for (const id of ["tail-from", "tail-partition"]) $(id).addEventListener("change", () => { if (tail.socket) startTail(); });
$("internal").addEventListener("change", () => { drawTopics(); drawTopicChoice(); });
poll();
