// What the page has from the run, as typed arrays, and what the reader has chosen.
const given = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function bytesOf(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}
const arrayOf = (Type, text) => (text === null ? null : new Type(bytesOf(text).buffer));

const ramp = bytesOf(given.ramp); // 256 colors
const categories = given.categories.map((one, index) => {
  const scores = arrayOf(Float32Array, one.scores);
  const category = {
    index,
    name: one.name,
    kinds: one.kinds,
    scores,
    labels: arrayOf(Uint8Array, one.labels),
    kindOf: arrayOf(one.kinds.length > 256 ? Uint16Array : Uint8Array, one.kind_of),
    groupOf: arrayOf(Uint32Array, one.group_of),
    groupNames: one.group_names,
    peaks: arrayOf(Float32Array, one.peaks),
    calibration: arrayOf(Float32Array, one.calibration),
    calibrationGroups: arrayOf(Uint32Array, one.calibration_groups),
    names: new Map(one.names),
    pictures: new Map(one.pictures.map((picture) => [picture.row, picture])),
    pro: one.pro,
    per: one.per,
    asked: one.threshold,
    askedLevel: one.map_threshold,
    promised: one.promised,
    approximate: one.approximate,
    notes: one.notes,
  };
  category.sorted = Float32Array.from(scores).sort();
  category.sortedPeaks = category.peaks && Float32Array.from(category.peaks).sort();
  category.scale = scaleOf(category);
  category.threshold = one.threshold ?? bestThreshold(category);
  category.level = one.map_threshold;
  return category;
});
const chosen = { category: categories[0] };

// Where a score lies between the ends of the axis, in [0, 1], and back. Where scores span more than two powers of ten,
// the axis is logarithmic.
function scaleOf(category) {
  const all = [...category.sorted, ...category.calibration];
  if (category.asked !== null) all.push(category.asked);
  let low = all.reduce((a, b) => Math.min(a, b), Infinity);
  let high = all.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!all.length) [low, high] = [0, 1];
  const middle = category.sorted[category.sorted.length >> 1];
  const log = low > 0 && high / middle > 30;
  const to = log ? Math.log : (x) => x;
  const from = log ? Math.exp : (x) => x;
  const room = (to(high) - to(low)) * 0.02 || 0.5;
  const [first, last] = [to(low) - room, to(high) + room];
  return { log, at: (score) => (to(score) - first) / (last - first), score: (at) => from(first + at * (last - first)) };
}

// Without a threshold the page begins at the one with the best F1.
function bestThreshold(category) {
  const order = Array.from(category.scores.keys()).sort((a, b) => category.scores[b] - category.scores[a]);
  const anomalous = category.labels.reduce((sum, label) => sum + label, 0);
  let [found, best, threshold] = [0, -1, 0];
  order.forEach((row, place) => {
    found += category.labels[row];
    const next = place + 1 < order.length ? category.scores[order[place + 1]] : category.scores[row] - 1;
    const f1 = (2 * found) / (place + 1 + anomalous);
    if (next < category.scores[row] && f1 > best) [best, threshold] = [f1, (next + category.scores[row]) / 2];
  });
  return threshold;
}

// Scores are float32, and so is the threshold that they are compared with, here as in adkit.
const isAbove = (category, row) => category.scores[row] > Math.fround(category.threshold);

function verdictOf(category, row) {
  const above = isAbove(category, row);
  return category.labels[row] ? (above ? "found" : "missed") : above ? "alarm" : "passed";
}

function countsOf(category) {
  const counts = { passed: 0, alarm: 0, missed: 0, found: 0 };
  for (let row = 0; row < category.scores.length; row++) counts[verdictOf(category, row)]++;
  return counts;
}

// The share of images above the threshold for each normal group, or of each anomalous image; by part 0 or 1 for each.
function sharesOf(category, label) {
  const shares = [];
  const groups = new Map();
  for (let row = 0; row < category.scores.length; row++) {
    const above = isAbove(category, row) ? 1 : 0;
    if (category.per === "image" && category.labels[row] !== label) continue;
    if (category.groupOf === null || (category.per === "image" && label)) {
      if (category.labels[row] === label) shares.push(above);
      continue;
    }
    const key = category.groupOf[row];
    const group = groups.get(key) ?? { images: 0, above: 0, label: 0 };
    group.images++;
    group.above += above;
    group.label = Math.max(group.label, category.labels[row]);
    groups.set(key, group);
  }
  for (const group of groups.values()) {
    if (category.per === "image") shares.push(group.above / group.images);
    else if (group.label === label) shares.push(group.above ? 1 : 0);
  }
  return shares;
}

const sum = (values) => values.reduce((a, b) => a + b, 0);

// Wilson's score interval of a share, 95%.
function wilson(successes, n) {
  if (!n) return [0, 1];
  const z = 1.959963984540054;
  const share = successes / n;
  const center = (share + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  return [successes === 0 ? 0 : center - half, successes === n ? 1 : center + half];
}

// The weight of the calibration scores for which ``counts`` holds, with that of the new group, as adkit.threshold has it:
// null where there are none.
function weightOf(category, counts) {
  const { calibration, calibrationGroups } = category;
  if (!calibration.length) return null;
  if (calibrationGroups === null) return (1 + calibration.filter(counts).length) / (calibration.length + 1);
  const groups = new Map();
  calibration.forEach((score, i) => {
    const [counted, all] = groups.get(calibrationGroups[i]) ?? [0, 0];
    groups.set(calibrationGroups[i], [counted + counts(score), all + 1]);
  });
  return (1 + sum([...groups.values()].map(([counted, all]) => counted / all))) / (groups.size + 1);
}

// The rate of false alarms to expect of a threshold that nobody promised anything of.
const expectedRate = (category) => weightOf(category, (score) => score > Math.fround(category.threshold));
const pValue = (category, row) => weightOf(category, (score) => score >= category.scores[row]);

// The threshold of maps that goes with one of images: of equal rank, and the recipe's own with the recipe's own.
function levelFor(category, threshold) {
  if (category.askedLevel === null || category.asked === null || !category.sortedPeaks?.length) return category.askedLevel;
  const { sorted, sortedPeaks } = category;
  const last = sorted.length - 1;
  const carried = (score) => {
    if (last < 1) return sortedPeaks[0];
    const slope = (sortedPeaks[last] - sortedPeaks[0]) / (sorted[last] - sorted[0] || 1);
    if (score <= sorted[0]) return sortedPeaks[0] + (score - sorted[0]) * slope;
    if (score >= sorted[last]) return sortedPeaks[last] + (score - sorted[last]) * slope;
    let [low, high] = [0, last];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (sorted[middle] <= score) low = middle;
      else high = middle;
    }
    const share = (score - sorted[low]) / (sorted[high] - sorted[low] || 1);
    return sortedPeaks[low] + share * (sortedPeaks[high] - sortedPeaks[low]);
  };
  return carried(threshold) + category.askedLevel - carried(category.asked);
}

// Text as people read it.
const shown = (number) => Number(number.toPrecision(4)).toString();
const asPercent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1).replace(/\.0$/, "")}%`);
const counted = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

const SVG = "http://www.w3.org/2000/svg";
function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
function html(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
