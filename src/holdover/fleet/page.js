// The page: asks the command that serves it for the site, once a second, and shows it. It loads nothing else.

import {timeline} from "./timeline.js";

const SVG = "http://www.w3.org/2000/svg";
const EVERY = 1000;
const ON_THE_MAP = 80;
const element = id => document.getElementById(id);
let settings = {allow_changes: false};
let fleet = null;
let shown = "";
let opened = null;

function make(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function shape(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

async function ask(path, body) {
  const how = body === undefined ? {} : {
    method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(body),
  };
  const answer = await fetch(path, how);
  const document = await answer.json();
  if (!answer.ok) throw new Error(document.detail);
  return document;
}

function table(titles, rows, nothing) {
  if (!rows.length) return make("p", {class: "none"}, nothing);
  const head = make("tr", {}, ...titles.map(each => make("th", {scope: "col"}, each)));
  return make("div", {class: "scroll"},
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

function row(...cells) {
  return make("tr", {}, ...cells.map(each =>
    each instanceof HTMLTableCellElement ? each : make("td", {}, each)));
}

function wanted(...words) {
  const filter = element("filter").value.trim().toLowerCase();
  return !filter || words.some(word => word.toLowerCase().includes(filter));
}

function opener(guest, host) {
  return make("button", {type: "button", onclick: () => open(guest, host)}, guest);
}

// -- the parts of the page --------------------------------------------------------------------------

function draw() {
  const silent = fleet.hosts.filter(each => each.problem).length;
  const doubt = fleet.moves.filter(each => each.in_doubt).length;
  const running = fleet.hosts.reduce((sum, each) => sum + each.running, 0);
  element("now").className = "";
  element("now").textContent = `${new Date(fleet.at * 1000).toLocaleTimeString()}: ` +
    `${fleet.hosts.length - silent} of ${fleet.hosts.length} hosts answer, ${running} guests run, ` +
    `${fleet.luns.length} LUNs, ${fleet.moves.filter(each => each.open).length} moves, ${doubt} in doubt, ` +
    `${fleet.alarms.length} alarms`;
  document.title = fleet.alarms.length ? `(${fleet.alarms.length}) Holdover` : "Holdover";
  // what has not changed stays, so that the focus stays too, and a screen reader does not read it again
  const content = JSON.stringify([{...fleet, at: 0}, element("filter").value]);
  if (content === shown) return;
  shown = content;
  const focus = document.activeElement?.dataset?.key;
  alarms(); moves(); map(); luns(); hosts();
  if (focus) document.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus();
}

function alarms() {
  const found = fleet.alarms.filter(each => wanted(each.host, each.guest, each.text));
  element("alarm-list").replaceChildren(...found.map(each => {
    const where = each.guest ? `${each.host}, guest ${each.guest}: ` : `${each.host}: `;
    const next = each.next ? [make("code", {}, each.next)] : [];
    return make("li", {class: each.severity}, make("strong", {}, where), each.text, ...next);
  }), ...found.length ? [] : [make("p", {class: "none"}, "None.")]);
}

function moves() {
  const rows = fleet.moves.filter(each => wanted(each.guest, each.source, each.destination)).map(each => {
    const state = make("span", {class: each.in_doubt ? "bad" : each.open ? "warn" : "soft"},
      each.in_doubt ? `${each.state}, in doubt` : each.state);
    let memory = each.standstill_ms === null ? "" : `stood still ${each.standstill_ms.toFixed(0)} ms`;
    if (each.open && each.progress !== null) {
      memory = make("span", {}, make("progress", {value: each.progress, max: 1, "aria-label": "memory"}),
        ` ${Math.round(each.progress * 100)} %`);
    }
    const when = each.began ? new Date(each.began * 1000).toLocaleTimeString() : "";
    return row(opener(each.guest, each.source), each.source, each.destination, state, memory, when, each.now);
  });
  element("moves").replaceChildren(
    table(["Guest", "From", "To", "State", "Memory", "Began", "Now"], rows, "No guest has moved."));
}

function luns() {
  const rows = fleet.luns.filter(each => wanted(each.designator, ...each.users.map(user => user.guest)))
    .map(each => row(
      make("td", {class: "id"}, each.designator), each.type_name,
      make("span", {}, ...each.users.flatMap((user, number) => [
        number ? ", " : "", opener(user.guest, user.host),
        ` on ${user.host}${user.holds ? ", holds" : user.key ? ", registered" : ""}`,
      ]))));
  element("luns").replaceChildren(table(["LUN", "Reservation", "Guests"], rows, "No LUN is known."));
}

function hosts() {
  const rows = fleet.hosts.filter(each => wanted(each.name)).map(each => row(
    each.name, each.problem ? make("span", {class: "bad"}, each.problem) : `agent ${each.version}`,
    String(each.guests), String(each.running)));
  element("hosts").replaceChildren(table(["Host", "Agent", "Guests", "Running"], rows, "No host is known."));
}

function map() {
  const guests = fleet.guests.filter(each => wanted(each.name, each.host, ...each.disks.map(disk => disk.lun)));
  const few = guests.slice(0, ON_THE_MAP);
  const names = [...new Set([...fleet.hosts.map(each => each.name), ...few.map(each => each.host)])];
  const lunNames = [...new Set(few.flatMap(each => each.disks.map(disk => disk.lun)))];
  const places = new Map();
  let y = 8;
  const boxes = [], chips = [];
  for (const host of names) {
    const here = few.filter(each => each.host === host);
    const height = 34 + Math.max(here.length, 1) * 34;
    const silent = fleet.hosts.find(each => each.name === host)?.problem;
    boxes.push(shape("rect", {x: 4, y, width: 320, height, rx: 8, class: "box"}),
      shape("text", {x: 16, y: y + 21, class: "host-name"}, host + (silent ? " (does not answer)" : "")));
    if (!here.length) boxes.push(shape("text", {x: 16, y: y + 50, class: "small"}, "no guest"));
    here.forEach((guest, number) => {
      const top = y + 32 + number * 34;
      places.set(guest, top + 14);
      const chip = shape("g", {
        tabindex: 0, role: "button", "aria-label": `guest ${guest.name} on ${host}, ${guest.place}`,
        "data-key": `${guest.name}@${host}`,
      },
      shape("rect", {x: 16, y: top, width: 296, height: 28, rx: 6, class: `chip ${guest.place}`}),
      shape("text", {x: 26, y: top + 19}, guest.name),
      shape("text", {x: 302, y: top + 19, class: "small", "text-anchor": "end"}, guest.place));
      chip.addEventListener("click", () => open(guest.name, host));
      chip.addEventListener("keydown", event => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(guest.name, host); }
      });
      chips.push(chip);
    });
    y += height + 12;
  }
  const height = Math.max(y, 8 + lunNames.length * 40 + 8);
  const step = Math.max(40, Math.min(80, (height - 16) / Math.max(lunNames.length, 1)));
  const lunAt = name => 24 + lunNames.indexOf(name) * step;
  const links = few.flatMap(guest => guest.disks.map(disk => shape("path", {
    d: `M 312 ${places.get(guest)} C 420 ${places.get(guest)}, 460 ${lunAt(disk.lun)}, 560 ${lunAt(disk.lun)}`,
    class: `link ${disk.type !== null ? "holds" : disk.key ? "registered" : ""}`,
  })));
  const boxesOfLuns = lunNames.flatMap(name => {
    const lun = fleet.luns.find(each => each.designator === name);
    return [
      shape("rect", {x: 560, y: lunAt(name) - 17, width: 400, height: 34, rx: 17, class: "box"}),
      shape("text", {x: 576, y: lunAt(name) - 1}, name.length > 46 ? "…" + name.slice(-45) : name),
      shape("text", {x: 576, y: lunAt(name) + 12, class: "small"},
        lun && lun.type_name !== "none" ? lun.type_name : "no reservation"),
    ];
  });
  const svg = shape("svg", {
    viewBox: `0 0 970 ${height}`, role: "group", "aria-label": "Hosts with their guests, and the guests' LUNs",
  }, ...boxes, ...links, ...chips, ...boxesOfLuns);
  const more = guests.length - few.length;
  element("map").replaceChildren(svg,
    ...more > 0 ? [make("p", {class: "none"}, `${more} more guests; use the filter.`)] : []);
}

// -- one guest --------------------------------------------------------------------------------------

async function open(name, host) {
  opened = {name, host};
  element("details-title").textContent = `Guest ${name} on ${host}`;
  element("details-body").replaceChildren(make("p", {class: "none"}, "Asking…"));
  if (!element("details").open) element("details").showModal();
  await details();
}

async function details() {
  const {name, host} = opened;
  const guest = fleet.guests.find(each => each.name === name && each.host === host);
  const parts = [];
  if (guest) {
    parts.push(make("h3", {}, "What its agent tracks"), table(["Disk", "LUN", "Gate", "Key", "Reservation"],
      guest.disks.map(each => row(each.id, make("td", {class: "id"}, each.lun),
        each.held ? `${each.gate}, ${each.held} commands held` : each.gate,
        make("td", {class: "key"}, (each.key ?? "not registered") + (each.stale ? " (stale)" : "")),
        each.key ? each.type_name + (each.aptpl ? ", APTPL" : "") : "")), "No disk."));
  } else parts.push(make("p", {class: "none"}, "The agent no longer has this guest."));
  parts.push(...await registrants(name, host), ...await story(name), ...actions(name, host));
  if (opened && opened.name === name && opened.host === host) {
    element("details-body").replaceChildren(...parts);
  }
}

async function registrants(name, host) {
  const title = make("h3", {}, "What each LUN says now");
  try {
    const answer = await ask(`registrants/${encodeURIComponent(host)}/${encodeURIComponent(name)}`);
    return [title, ...answer.luns.map(lun => lun.problem
      ? make("p", {class: "bad"}, `${lun.designator}: ${lun.problem}`)
      : make("div", {}, make("p", {class: "id"}, lun.designator), table(["Key", "Holder", "Initiator", "Port"],
        lun.registrants.map(each => row(make("td", {class: "key"}, each.key), each.holder ? "holder" : "",
          make("td", {class: "id"}, each.initiator || "the LUN does not report it"),
          each.target_port === null ? "all" : String(each.target_port))), "Nobody is registered.")))];
  } catch (error) {
    return [title, make("p", {class: "bad"}, error.message)];
  }
}

async function story(name) {
  try {
    const handovers = await ask(`timeline/${encodeURIComponent(name)}`);
    const newest = handovers.map(each => each.handover_id).pop();
    const same = handovers.filter(each => each.handover_id === newest);
    const drawn = timeline(same);
    const says = same.map(each => `${each.host} (${each.role}): ${each.state}${each.problem ? ", " + each.problem : ""}`);
    if (!same.length) return [];
    return [make("h3", {}, `Handover ${newest}`), make("p", {}, says.join("; ")), ...drawn ? [drawn] : []];
  } catch (error) {
    return [make("p", {class: "bad"}, error.message)];
  }
}

function actions(guest, host) {
  if (!settings.allow_changes) return [];
  const made = make("div", {class: "actions"});
  const change = (text, request) => made.append(make("button", {type: "button", onclick: async () => {
    if (!confirm(`${text}: guest ${guest} on ${host}?`)) return;
    try { alert((await ask("change", {guest, host, ...request})).text); } catch (error) { alert(error.message); }
    await renew();
    await details();
  }}, text));
  for (const each of fleet.hosts.filter(each => each.name !== host && !each.problem)) {
    change(`Migrate to ${each.name}`, {change: "migrate", to: each.name});
  }
  for (const each of fleet.moves.filter(each => each.open && each.guest === guest && each.source === host)) {
    const isMigration = each.began > 0;
    change(isMigration ? "Cancel the migration" : "Roll back the handover",
      {change: isMigration ? "cancel" : "roll back", id: each.id});
  }
  return [make("h3", {}, "Changes"), made];
}

// -- keys, theme, time ------------------------------------------------------------------------------

element("details").addEventListener("close", () => { opened = null; });
element("filter").addEventListener("input", () => fleet && draw());
element("theme").addEventListener("click", turnTheme);
element("help").addEventListener("click", help);

function turnTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
}

function help() {
  element("details-title").textContent = "Keys";
  element("details-body").replaceChildren(table(["Key", "What it does"], [
    row("Tab, Shift+Tab", "Go to the next or the previous guest or button"),
    row("Enter", "Show a guest"), row("Escape", "Close"), row("/", "Filter"),
    row("a", "Go to the alarms"), row("t", "Dark or light"), row("?", "This list"),
  ], ""));
  element("details").showModal();
}

document.addEventListener("keydown", event => {
  if (event.target instanceof HTMLInputElement || event.ctrlKey || event.altKey || event.metaKey) return;
  const keys = {"/": () => element("filter").focus(), "t": turnTheme, "?": help, "a": () => element("alarms").focus()};
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});

async function renew() {
  try {
    fleet = await ask("fleet.json");
    draw();
  } catch (error) {
    element("now").className = "stale";
    element("now").textContent = `holdover dashboard does not answer (${error.message}); what is below may be old`;
  }
}

async function run() {
  try { settings = await ask("settings.json"); } catch { /* the next question says what is wrong */ }
  for (;;) {
    await renew();
    await new Promise(resolve => setTimeout(resolve, EVERY));
  }
}

run();
