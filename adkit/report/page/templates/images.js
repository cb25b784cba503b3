// Images with their maps, and the closer look at one of them.
const PAGE = 36;
const VERDICTS = { alarm: ["!", "False alarm"], missed: ["✕", "Missed"], found: ["✓", "Found"], passed: ["·", "Passed"] };
const WRONG = new Set(["alarm", "missed"]);
const tools = byId("tools");
const view = byId("view");
const cards = new Map();
let listed = [];
let most = PAGE;

let gridAspect = 1;

const rows = categories.flatMap((category) =>
  [...category.names].map(([row, name]) => ({ category, row, name, key: `${category.index} ${row}` })),
);

function margin({ category, row }) {
  return category.labels[row] ? category.scores[row] - category.threshold : category.threshold - category.scores[row];
}

// Thresholds of categories differ, and so do their units: margins are compared as shares of what each one's scores span.
const spanOf = (category) => category.sorted[category.sorted.length - 1] - category.sorted[0] || 1;
const relative = (one) => margin(one) / spanOf(one.category);

const ORDERS = {
  wrong: (a, b) => relative(a) - relative(b),
  close: (a, b) => Math.abs(relative(a)) - Math.abs(relative(b)),
  high: (a, b) => b.category.scores[b.row] - a.category.scores[a.row],
  low: (a, b) => a.category.scores[a.row] - b.category.scores[b.row],
  name: (a, b) => a.category.index - b.category.index || a.name.localeCompare(b.name, "en", { numeric: true }),
};

function choice(name) {
  return tools.elements[name]?.value ?? "";
}

function matches({ category, row, name }) {
  const verdict = verdictOf(category, row);
  const wanted = choice("verdict");
  return (
    (choice("category") === "" || category.index === Number(choice("category"))) &&
    (choice("label") === "" || category.labels[row] === Number(choice("label"))) &&
    (wanted === "" || (wanted === "wrong" ? WRONG.has(verdict) : verdict === wanted)) &&
    (choice("kind") === "" || category.kinds[category.kindOf[row]] === choice("kind")) &&
    (choice("group") === "" || groupName(category, row) === choice("group")) &&
    name.toLowerCase().includes(choice("name").toLowerCase())
  );
}

const groupName = (category, row) => (category.groupNames.length ? category.groupNames[category.groupOf[row]] : "");

// Put the images that are asked for into the grid, in their order. Cards are made once and moved.
function showImages() {
  listed = rows.filter(matches).sort(ORDERS[choice("sort")]);
  const focused = document.activeElement;
  const seen = listed.slice(0, most).map(cardOf);
  byId("grid").replaceChildren(...seen.map((card) => card.item));
  if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
  seen.forEach(refresh);
  const all = sum(categories.map((category) => category.scores.length));
  const named = rows.length < all ? ` of the ${rows.length.toLocaleString("en")} that are listed of ${all.toLocaleString("en")}` : ` of ${all.toLocaleString("en")}`;
  const without = listed.filter(({ category, row }) => !category.pictures.has(row)).length;
  byId("count").textContent = `${counted(listed.length, "image")}${named}.${without ? ` ${without.toLocaleString("en")} without a picture: the recipe's run.thumbnails bounds them.` : ""}`;
  const rest = listed.length - Math.min(most, listed.length);
  byId("more").hidden = rest === 0;
  byId("more").textContent = `Show ${Math.min(rest, PAGE)} more of ${rest.toLocaleString("en")}`;
}

function cardOf(one) {
  const made = cards.get(one.key);
  if (made) return made;
  const verdict = html("span", { class: "verdict" });
  const kind = one.category.kinds[one.category.kindOf[one.row]];
  const button = html(
    "button",
    { type: "button", class: "card" },
    pictureOf(one, undefined, gridAspect),
    html(
      "span",
      { class: "caption" },
      verdict,
      html("span", { class: "score" }, shown(one.category.scores[one.row])),
      html("span", { class: "file", title: one.name }, html("bdi", {}, one.name)),
      html("span", {}, kind),
    ),
  );
  button.addEventListener("click", () => look(one));
  const card = { ...one, item: html("li", {}, button), button, verdict };
  cards.set(one.key, card);
  return card;
}

// What changes with the threshold.
function refresh(card) {
  const verdict = verdictOf(card.category, card.row);
  if (card.shownVerdict !== verdict) {
    card.shownVerdict = verdict;
    const [sign, text] = VERDICTS[verdict];
    card.verdict.className = `verdict ${verdict}`;
    card.verdict.replaceChildren(html("i", { "aria-hidden": "true" }, sign), text);
    card.button.classList.toggle("is-wrong", WRONG.has(verdict));
  }
  if (card.shownLevel !== card.category.level) {
    card.shownLevel = card.category.level;
    drawContour(card.button, card);
  }
}

// A picture with its map and outlines; ``layers`` says which.
function pictureOf({ category, row }, layers = { map: true, mask: true, contour: true }, frameAspect = null) {
  const picture = category.pictures.get(row);
  const frame = html("span", { class: "picture" });
  if (frameAspect !== null) frame.style.aspectRatio = String(frameAspect);
  if (!picture || picture.image === null) {
    frame.append(html("span", { class: "missing" }, picture ? "This image can no longer be read." : "No picture: others deserve more of a look."));
    return frame;
  }
  const aspect = frameAspect ?? bounded(picture.width / picture.height);
  frame.style.aspectRatio = String(aspect);
  const stack = stackOf(picture.image, picture.width, picture.height, aspect);
  if (layers.map && picture.map !== null) {
    const canvas = html("canvas", { width: 1, height: 1, "aria-hidden": "true" });
    stack.append(canvas);
    valuesOf(picture).then((values) => paint(canvas, values, category));
  }
  const lines = svg("svg", { viewBox: `0 0 ${picture.width} ${picture.height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  if (layers.mask && picture.outline) lines.append(twice("mask-paths", "outline", picture.outline));
  if (layers.contour && picture.map !== null) lines.append(svg("g", { class: "contour-paths" }));
  stack.append(lines);
  frame.append(stack);
  return frame;
}

// Frames have the shape of the images, as far as that is not extreme: in the grid that of the median one.
const bounded = (aspect) => Math.min(2.5, Math.max(0.6, aspect));
function aspectOf() {
  const aspects = categories.flatMap((category) => [...category.pictures.values()].map((one) => one.width / one.height));
  return bounded(aspects.sort((a, b) => a - b)[aspects.length >> 1] ?? 1);
}

function stackOf(image, width, height, frame = 1) {
  const stack = html("span", { class: "stack" }, html("img", { src: `data:image/jpeg;base64,${image}`, alt: "", decoding: "async" }));
  const share = width / height / frame; // of the frame's width, where the height is all of the frame's
  stack.style.width = `${100 * Math.min(1, share)}%`;
  stack.style.height = `${100 * Math.min(1, 1 / share)}%`;
  return stack;
}

const twice = (group, name, path) => svg("g", { class: group }, svg("path", { class: `${name}-dark`, d: path }), svg("path", { class: name, d: path }));

// The values of a map in raw units, read from its gray picture once.
function valuesOf(picture) {
  picture.values ??= new Promise((resolve) => {
    const image = new Image();
    image.onload = () => {
      const canvas = html("canvas", { width: image.width, height: image.height });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, image.width, image.height).data;
      const values = new Float32Array(image.width * image.height);
      for (let i = 0; i < values.length; i++) values[i] = picture.low + (pixels[4 * i] / 255) * (picture.high - picture.low);
      resolve({ width: image.width, height: image.height, values, low: picture.low, high: picture.high });
    };
    image.src = `data:image/png;base64,${picture.map}`;
  });
  return picture.values;
}

// Colors that mean the same in every image: they begin a quarter below the recipe's map threshold, and are strongest at
// twice it. Without one they run over the upper half of the image's own values.
function paint(canvas, map, category) {
  const t = category.askedLevel;
  const low = t === null ? (map.low + map.high) / 2 : t - Math.abs(t) / 4;
  const high = t === null ? map.high : t + (Math.abs(t) || 1);
  canvas.width = map.width;
  canvas.height = map.height;
  const context = canvas.getContext("2d");
  const drawn = context.createImageData(map.width, map.height);
  for (let i = 0; i < map.values.length; i++) {
    const share = Math.max(0, Math.min(1, (map.values[i] - low) / (high - low || 1)));
    const color = 3 * Math.round(255 * share);
    drawn.data.set([ramp[color], ramp[color + 1], ramp[color + 2], 255 * Math.sqrt(share)], 4 * i);
  }
  context.putImageData(drawn, 0, 0);
}

function drawContour(holder, { category, row }) {
  const picture = category.pictures.get(row);
  const place = holder.querySelector(".contour-paths");
  if (!place) return;
  if (category.level === null) {
    place.replaceChildren();
    return;
  }
  valuesOf(picture).then((map) => {
    const path = contourOf(map, category.level, picture.width, picture.height);
    place.replaceChildren(...(path ? twice("", "contour", path).children : []));
    place.lastElementChild?.setAttribute("class", "contour-line");
  });
}

// The line along which a map is at a level, by marching squares; the map's border counts as below.
function contourOf({ width, height, values, high }, level, toWidth, toHeight) {
  if (high <= level) return "";
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? level - 1e-9 - Math.abs(level) * 1e-6 : values[y * width + x]);
  const outside = (x, y) => x < 0 || y < 0 || x >= width || y >= height;
  const between = (a, b, away) => (away ? 0.5 : (level - a) / (b - a));
  const segments = new Map();
  for (let y = -1; y < height; y++) {
    for (let x = -1; x < width; x++) {
      const [a, b, c, d] = [at(x, y), at(x + 1, y), at(x + 1, y + 1), at(x, y + 1)];
      const code = (a > level) | ((b > level) << 1) | ((c > level) << 2) | ((d > level) << 3);
      if (code === 0 || code === 15) continue;
      const oa = outside(x, y), ob = outside(x + 1, y), oc = outside(x + 1, y + 1), od = outside(x, y + 1);
      const top = [x + between(a, b, oa || ob), y], right = [x + 1, y + between(b, c, ob || oc)];
      const bottom = [x + between(d, c, od || oc), y + 1], left = [x, y + between(a, d, oa || od)];
      const cases = {
        1: [[left, top]], 2: [[top, right]], 3: [[left, right]], 4: [[right, bottom]], 5: [[left, top], [right, bottom]],
        6: [[top, bottom]], 7: [[left, bottom]], 8: [[bottom, left]], 9: [[bottom, top]], 10: [[top, right], [bottom, left]],
        11: [[bottom, right]], 12: [[right, left]], 13: [[right, top]], 14: [[top, left]],
      };
      for (const [from, to] of cases[code]) segments.set(from.join(), to);
    }
  }
  const point = ([x, y]) => `${(((x + 0.5) / width) * toWidth).toFixed(1)} ${(((y + 0.5) / height) * toHeight).toFixed(1)}`;
  let path = "";
  while (segments.size) {
    const start = segments.keys().next().value;
    let [key, line] = [start, `M${point(start.split(",").map(Number))}`];
    while (segments.has(key)) {
      const next = segments.get(key);
      segments.delete(key);
      line += `L${point(next)}`;
      key = next.join();
    }
    path += line;
  }
  return path;
}

// A closer look at one image, from which one goes on to those beside it.
let looked = null;

function look(one) {
  looked = one;
  const { category, row } = one;
  const verdict = verdictOf(category, row);
  const picture = category.pictures.get(row);
  byId("closer-title").replaceChildren(html("bdi", {}, one.name));
  const plain = html("figure", {}, pictureOf(one, { mask: true }), html("figcaption", {}, picture?.outline ? "The image, with its marked defect" : "The image"));
  const mapped = html("figure", {}, pictureOf(one), html("figcaption", {}, mapText(category, picture)));
  const facts = html("dl", {});
  const fact = (name, value) => facts.append(html("div", {}, html("dt", {}, name), html("dd", {}, value)));
  const [sign, text] = VERDICTS[verdict];
  fact("Verdict", html("span", { class: `verdict ${verdict}` }, html("i", { "aria-hidden": "true" }, sign), text));
  fact("Score", `${shown(category.scores[row])}, threshold ${shown(category.threshold)}`);
  const p = pValue(category, row);
  if (p !== null) fact("p-value", `${shown(p)}: the share of normal images expected to score as high`);
  fact("Label", category.labels[row] ? "anomalous" : "normal");
  fact("Kind", category.kinds[category.kindOf[row]]);
  if (groupName(category, row)) fact("Part", groupName(category, row));
  if (categories.length > 1) fact("Category", category.name);
  byId("closer-body").replaceChildren(plain, mapped, facts, ...evidenceOf(picture));
  drawContour(mapped, one);
  const place = listed.findIndex((other) => other.key === one.key);
  byId("previous").disabled = place <= 0;
  byId("next").disabled = place < 0 || place + 1 >= listed.length;
  if (!byId("closer").open) byId("closer").showModal();
}

function mapText(category, picture) {
  if (!picture || picture.map === null) return "No map";
  const peak = `Its map: highest value ${shown(picture.high)}`;
  return category.level === null ? peak : `${peak}, threshold ${shown(category.level)}`;
}

// The patch with the highest score, beside the normal patches that are closest to it.
function evidenceOf(picture) {
  if (!picture?.evidence) return [];
  const { level, member, patch, nearest, mean } = picture.evidence;
  const figure = (one, text) => {
    const frame = html("span", { class: "picture" });
    if (one.picture === null) frame.append(html("span", { class: "missing" }, "This image can no longer be read."));
    else {
      const [x, y, width, height] = one.box;
      const stack = stackOf(one.picture, 1, 1);
      const lines = svg("svg", { viewBox: "0 0 1 1", "aria-hidden": "true" });
      lines.append(twice("", "outline", `M${x} ${y}h${width}v${height}h${-width}Z`));
      stack.append(lines);
      frame.append(stack);
    }
    return html("li", {}, html("figure", {}, frame, html("figcaption", {}, ...text)));
  };
  const list = html("ul", {}, figure(patch, [html("b", {}, "This image"), `, at ${patch.place.join(", ")}`]));
  nearest.forEach((one) => {
    list.append(figure(one, [html("b", {}, `Distance ${shown(one.distance)}`), ", ", html("bdi", {}, one.image), `, at ${one.place.join(", ")}`]));
  });
  if (mean) list.append(figure(mean, [html("b", {}, "Normal there"), `, the mean of ${counted(mean.images, "image")}`]));
  const beside = mean ? "what normal images show there on average" : "the places of normal images that are closest to it";
  const by = member ? ` of member ${member}, which finds this image least normal` : "";
  const hint = `The place that scores highest, by level ${level}${by}, and ${beside}. The frame is the cell; places are pixels from the left and the top.`;
  return [html("section", { class: "evidence" }, html("h3", {}, "Evidence"), html("p", { class: "hint" }, hint), list)];
}

function step(by) {
  const place = listed.findIndex((other) => other.key === looked?.key);
  const next = listed[place + by];
  if (place >= 0 && next) look(next);
}

// The slider of the map threshold, over the values of the category's maps.
function levelSpan(category) {
  const pictures = [...category.pictures.values()].filter((one) => one.map !== null);
  return [pictures.reduce((a, one) => Math.min(a, one.low), Infinity), pictures.reduce((a, one) => Math.max(a, one.high), -Infinity)];
}

function showLevel() {
  const category = chosen.category;
  const [low, high] = levelSpan(category);
  byId("map-field").hidden = category.level === null || !(high > low);
  if (category.level === null) return;
  const slider = view.elements.level;
  slider.value = String(Math.round(((category.level - low) / (high - low)) * 1000));
  slider.setAttribute("aria-valuetext", shown(category.level));
}

function thresholdMoved() {
  if (choice("verdict") || ["wrong", "close"].includes(choice("sort"))) showImages();
  else for (const one of listed.slice(0, most)) refresh(cardOf(one));
}

function fillChoices() {
  const among = choice("category") === "" ? categories : [categories[Number(choice("category"))]];
  for (const [name, values] of [["kind", among.flatMap((one) => one.kinds)], ["group", among.flatMap((one) => one.groupNames)]]) {
    const select = tools.elements[name];
    const before = select.value;
    const options = [...new Set(values)].map((value) => html("option", { value }, value));
    select.replaceChildren(html("option", { value: "" }, "all"), ...options);
    select.value = values.includes(before) ? before : "";
  }
  byId("group-field").hidden = !among.some((one) => one.groupNames.length);
}

function startImages() {
  byId("gallery").hidden = false;
  const grid = byId("grid");
  for (const form of [tools, view]) form.addEventListener("submit", (event) => event.preventDefault());
  const choose = (event) => {
    most = PAGE;
    if (event.target.name === "category") fillChoices();
    showImages();
  };
  tools.addEventListener("change", choose);
  tools.elements.name.addEventListener("input", choose);
  view.addEventListener("input", (event) => {
    const { opacity, mask, contour, level } = view.elements;
    for (const place of [grid, byId("closer-body")]) {
      place.style.setProperty("--opacity", String(Number(opacity.value) / 100));
      place.classList.toggle("no-mask", !mask.checked);
      place.classList.toggle("no-contour", !contour.checked);
    }
    if (event.target === level) {
      const [low, high] = levelSpan(chosen.category);
      chosen.category.level = low + (Number(level.value) / 1000) * (high - low);
      showThreshold();
      level.setAttribute("aria-valuetext", shown(chosen.category.level));
      for (const one of listed.slice(0, most)) refresh(cardOf(one));
    }
  });
  byId("more").addEventListener("click", () => {
    const before = most;
    most += PAGE;
    showImages();
    cardOf(listed[before]).button.focus();
  });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => byId("closer").close());
  byId("closer").addEventListener("click", (event) => event.target === byId("closer") && byId("closer").close());
  byId("closer").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  gridAspect = aspectOf();
  fillChoices();
  showImages();
}
