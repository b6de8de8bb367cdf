'use strict';
(() => {
const $ = id => document.getElementById(id);
const PAGE = 10, PART = 256 * 1024, KEEP = 120, POLL_MS = 1000;

/* ---- numbers for people ---- */
const number = n => Math.round(n).toLocaleString('en');
const bytes = n => {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let u = 0;
  for (; n >= 1024 && u < 4; u++) n /= 1024;
  return (n < 10 && u ? n.toFixed(1) : Math.round(n)) + ' ' + units[u];
};
const micros = us => us == null ? '–' : us < 1000 ? Math.round(us) + ' µs' : us < 1e6 ? (us / 1000).toFixed(us < 1e4 ? 1 : 0) + ' ms' : (us / 1e6).toFixed(1) + ' s';
const rate = n => n < 10 ? n.toFixed(1) : number(n);
const duration = s => s < 120 ? s + ' s' : s < 7200 ? Math.round(s / 60) + ' min' : s < 172800 ? Math.round(s / 3600) + ' h' : Math.round(s / 86400) + ' days';

/* ---- searching ---- */
let shown = {q: '', offset: 0, total: 0}, asked = 0, timer = 0;

function say(text, error) {
  $('summary').replaceChildren(...(Array.isArray(text) ? text : [text]));
  $('summary').classList.toggle('error', !!error);
}

function bold(text) {
  const b = document.createElement('b');
  b.textContent = text;
  return b;
}

/* The text with its matches marked: ranges of characters (code points).  Everything is text, nothing is markup. */
function marked(text, ranges) {
  const characters = Array.from(text), out = [];
  let from = 0;
  for (const [first, behind] of ranges) {
    const mark = document.createElement('mark');
    mark.textContent = characters.slice(first, behind).join('');
    out.push(characters.slice(from, first).join(''), mark);
    from = behind;
  }
  out.push(characters.slice(from).join(''));
  return out;
}

function row(result) {
  const li = document.createElement('li'), h2 = document.createElement('h2'), a = document.createElement('a');
  const path = document.createElement('p'), snippet = document.createElement('p');
  a.href = '/documents/' + result.id;
  a.textContent = result.title || result.path;
  a.addEventListener('click', event => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go({q: shown.q, doc: result.id}, result);
  });
  path.className = 'path';
  path.textContent = result.path;
  snippet.className = 'snippet';
  snippet.append(...marked(result.snippet, result.marks));
  h2.append(a);
  li.append(h2, path, snippet);
  return li;
}

async function search(q, offset) {
  const ticket = ++asked;
  if (!q.trim()) {
    shown = {q: '', offset: 0, total: 0};
    $('results').replaceChildren();
    $('more').hidden = true;
    say('Type to search. Words must all occur; "in quotes" they must stand together.');
    return;
  }
  let answer;
  try {
    const response = await fetch(`/search?q=${encodeURIComponent(q)}&limit=${PAGE}&offset=${offset}`);
    answer = await response.json();
    if (ticket !== asked) return;
    if (!response.ok) throw new Error(answer.message);
  } catch (error) {
    if (ticket === asked) say(error.message || 'The server does not answer.', true);
    return;
  }
  shown = {q, offset: offset + answer.results.length, total: answer.total};
  const rows = answer.results.map(row);
  if (offset) $('results').append(...rows);
  else $('results').replaceChildren(...rows);
  $('more').hidden = shown.offset >= answer.total || !rows.length;
  say([bold(number(answer.total)), answer.total === 1 ? ' document in ' : ' documents in ', bold(micros(answer.took_us)),
    answer.cached ? ', from the cache' : ', from the index']);
}

/* ---- a document ---- */
const escapeRegExp = text => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

/* Text with the words that were searched for marked, as far as that is useful. */
function highlighted(text, q) {
  const words = q.match(/[\p{L}\p{N}]{2,}/gu);
  if (!words) return [text];
  const pattern = new RegExp('(?<![\\p{L}\\p{N}])(?:' + words.slice(0, 8).map(escapeRegExp).join('|') + ')', 'giu');
  const out = [];
  let from = 0;
  for (const match of text.matchAll(pattern)) {
    const mark = document.createElement('mark');
    mark.textContent = match[0];
    out.push(text.slice(from, match.index), mark);
    from = match.index + match[0].length;
    if (out.length > 2000) break;
  }
  out.push(text.slice(from));
  return out;
}

async function open(id, result) {
  const all = result === 'all', ticket = ++asked;
  $('raw').href = '/documents/' + id;
  let text, total = 0;
  try {
    const response = await fetch('/documents/' + id, all ? {} : {headers: {Range: `bytes=0-${PART - 1}`}});
    if (!response.ok) throw new Error((await response.json()).message);
    const range = /\/(\d+)$/.exec(response.headers.get('Content-Range') || '');
    total = range ? +range[1] : 0;
    text = new TextDecoder().decode(await response.arrayBuffer());
    if (ticket !== asked) return;
    if (total > PART) text = text.replace(/\uFFFD$/, '');
  } catch (error) {
    if (ticket === asked) say(error.message || 'The server does not answer.', true);
    return;
  }
  if (result && !all) {
    $('document-title').textContent = result.title || result.path;
    $('document-path').textContent = result.path;
  } else if (!all) {
    $('document-title').textContent = 'Document ' + id;
    $('document-path').textContent = '';
  }
  $('text').replaceChildren(...highlighted(text, $('q').value));
  $('rest').hidden = total <= PART;
  $('rest').textContent = `Show all of it (${bytes(total)})`;
  $('rest').onclick = () => open(id, 'all');
  show(true);
  if (!all) {
    $('text').scrollTop = 0;
    $('document-title').focus();
    const first = $('text').querySelector('mark');
    if (first) $('text').scrollTop = first.offsetTop - $('text').offsetTop - 120;
  }
}

function show(documentShown) {
  $('document').hidden = !documentShown;
  $('results').hidden = documentShown;
  $('summary').hidden = documentShown;
  $('more').hidden = documentShown || shown.offset >= shown.total;
}

/* ---- where we are: in the address, so that Back works ---- */
function go(where, result, replace) {
  const url = new URLSearchParams();
  if (where.q) url.set('q', where.q);
  if (where.doc) url.set('doc', where.doc);
  const text = url.toString();
  history[replace ? 'replaceState' : 'pushState']({result: result || null}, '', text ? '/?' + text : '/');
  arrive(result);
}

function arrive(result) {
  const url = new URLSearchParams(location.search), q = url.get('q') || '', doc = url.get('doc');
  if ($('q').value !== q) $('q').value = q;
  document.title = q ? q + ' – lookup' : 'lookup';
  if (doc && /^\d+$/.test(doc)) return open(doc, result || undefined);
  show(false);
  return q !== shown.q || !q ? search(q, 0) : undefined;
}

$('form').addEventListener('submit', event => {
  event.preventDefault();
  clearTimeout(timer);
  go({q: $('q').value});
  $('results').querySelector('a')?.focus();
});
$('q').addEventListener('input', () => {
  clearTimeout(timer);
  timer = setTimeout(() => go({q: $('q').value}, null, true), 160);
});
$('more').addEventListener('click', () => search(shown.q, shown.offset));
$('close').addEventListener('click', () => history.state?.result ? history.back() : go({q: $('q').value}));
$('home').addEventListener('click', event => { event.preventDefault(); go({}); $('q').focus(); });
addEventListener('popstate', event => arrive(event.state?.result));
addEventListener('keydown', event => {
  if (event.metaKey || event.ctrlKey || event.altKey) return;
  if (event.key === '/' && document.activeElement !== $('q')) {
    event.preventDefault();
    $('q').focus();
    $('q').select();
  } else if (event.key === 'Escape' && !$('document').hidden) {
    $('close').click();
  } else if ((event.key === 'ArrowDown' || event.key === 'ArrowUp') && $('document').hidden) {
    const links = [...$('results').querySelectorAll('a')], at = links.indexOf(document.activeElement);
    if (!links.length || (at < 0 && document.activeElement !== $('q'))) return;
    event.preventDefault();
    const next = event.key === 'ArrowDown' ? at + 1 : at - 1;
    (links[Math.min(next, links.length - 1)] || $('q')).focus();
  }
});

/* ---- plots ---- */
const samples = [];   /* of /stats.json, newest last */
const points = [];    /* what is drawn */

/* The value below which a share of the requests between two samples were; interpolated in its bucket. */
function quantile(bounds, now, before, share) {
  const counts = now.map((n, i) => n - before[i]), total = counts.reduce((a, b) => a + b, 0);
  if (!total) return null;
  let below = 0;
  for (let i = 0; i < counts.length; i++) {
    if (below + counts[i] >= share * total && counts[i]) {
      const low = i ? bounds[i - 1] : 0, high = i < bounds.length ? bounds[i] : bounds[bounds.length - 1] * 2;
      return low + (high - low) * (share * total - below) / counts[i];
    }
    below += counts[i];
  }
  return null;
}

const plots = [
  {id: 'rate', title: 'Requests/s', unit: rate, lines: [['all', p => p.rate], ['errors', p => p.errors]]},
  {id: 'latency', title: 'Latency', unit: micros, lines: [['p50', p => p.p50], ['p99', p => p.p99]]},
  {id: 'pool', title: 'Connections', unit: number, floor: 4, lines: [['in use', p => p.inUse], ['waiting', p => p.waiting]]},
  {id: 'ratio', title: 'Hits', unit: n => n == null ? '–' : Math.round(n * 100) + ' %', top: 1, lines: [['ratio', p => p.ratio]]},
  {id: 'bytes', title: 'Cache', unit: bytes, lines: [['used', p => p.cacheBytes]], limit: p => p.cacheCapacity},
  {id: 'budget', title: 'Budget', unit: bytes, lines: [['used', p => p.budget]], limit: p => p.budgetHard},
];

for (const plot of plots) {
  const figure = document.createElement('figure'), caption = document.createElement('figcaption');
  const legend = document.createElement('span');
  plot.canvas = document.createElement('canvas');
  plot.canvas.id = 'plot-' + plot.id;
  plot.canvas.setAttribute('role', 'img');
  legend.className = 'legend';
  plot.values = plot.lines.map(([name], i) => {
    const span = document.createElement('span'), value = bold('–');
    span.className = 'ab'[i];
    span.append(name + ' ', value);
    legend.append(span);
    return value;
  });
  caption.append(plot.title, legend);
  figure.append(caption, plot.canvas);
  $('plots').append(figure);
  plot.canvas.addEventListener('pointermove', event => {
    plot.at = event.offsetX;
    draw(plot);
  });
  plot.canvas.addEventListener('pointerleave', () => {
    plot.at = undefined;
    draw(plot);
  });
}

/* A round number above: of bytes a power of two, as they are shown in KiB and MiB. */
function nice(top, unit) {
  if (unit === bytes) return 2 ** Math.ceil(Math.log2(top * 1.02));
  const power = 10 ** Math.floor(Math.log10(top));
  return [1, 2, 5, 10].map(n => n * power).find(n => n >= top * 1.02) || top;
}

function draw(plot) {
  const canvas = plot.canvas, width = canvas.clientWidth, height = canvas.clientHeight, scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const g = canvas.getContext('2d'), css = getComputedStyle(document.documentElement), color = name => css.getPropertyValue(name).trim();
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.clearRect(0, 0, width, height);
  const peak = Math.max(plot.floor || 0, ...points.flatMap(p => plot.lines.map(([, get]) => get(p) || 0)));
  const top = plot.top || (peak > 0 ? nice(peak, plot.unit) : 1);
  const y = v => height - 3 - (height - 18) * Math.min(v / top, 1), x = i => width - (points.length - 1 - i) * width / (KEEP - 1);
  g.font = '11px system-ui, sans-serif';
  g.strokeStyle = color('--grid');
  g.lineWidth = 1;
  for (const part of [0, .5, 1]) {
    g.beginPath();
    g.moveTo(0, Math.round(y(top * part)) + .5);
    g.lineTo(width, Math.round(y(top * part)) + .5);
    g.stroke();
  }
  g.fillStyle = color('--soft');
  g.fillText(plot.unit(top), 0, 10);
  plot.lines.forEach(([, get], i) => {
    const stroke = color(i ? '--b' : '--a');
    let begun = false, first = 0, last = 0;
    g.beginPath();
    points.forEach((p, k) => {
      const v = get(p);
      if (v == null) return;
      if (!begun) g.moveTo((first = x(k)) - .1, y(v)); /* a single point is a dot */
      g.lineTo(x(k), y(v));
      begun = true;
      last = x(k);
    });
    if (!begun) return;
    g.strokeStyle = stroke;
    g.lineWidth = 1.75;
    g.lineJoin = g.lineCap = 'round';
    g.stroke();
    if (i) return;
    g.lineTo(last, y(0));
    g.lineTo(first, y(0));
    g.globalAlpha = .12;
    g.fillStyle = stroke;
    g.fill();
    g.globalAlpha = 1;
  });
  let k = points.length - 1;
  if (plot.at !== undefined && points.length) {
    k = Math.max(0, Math.min(k, Math.round(points.length - 1 - (width - plot.at) * (KEEP - 1) / width)));
    g.strokeStyle = color('--soft');
    g.lineWidth = 1;
    g.beginPath();
    g.moveTo(Math.round(x(k)) + .5, 14);
    g.lineTo(Math.round(x(k)) + .5, height);
    g.stroke();
  }
  const p = points[k];
  if (!p) return;
  plot.lines.forEach(([, get], i) => { plot.values[i].textContent = plot.unit(get(p)); });
  if (plot.limit && plot.limit(p)) plot.values[0].textContent += ' of ' + plot.unit(plot.limit(p));
  canvas.setAttribute('aria-label', plot.title + ': ' + plot.lines.map(([name], i) => name + ' ' + plot.values[i].textContent).join(', '));
}

function take(now) {
  const before = samples[samples.length - 1];
  samples.push(now);
  if (samples.length > 2) samples.shift();
  if (!before || before.uptime_s > now.uptime_s) return;
  const seconds = Math.max((now.time_ms - before.time_ms) / 1000, .001);
  const since = get => get(now) - get(before);
  const lookups = since(s => s.store.searches), hits = lookups - since(s => s.store.database_reads);
  const latency = share => quantile(now.latency.bounds_us, now.latency.search, before.latency.search, share);
  const last = points[points.length - 1];
  points.push({
    rate: since(s => s.requests) / seconds,
    errors: since(s => s.server_errors + s.client_errors) / seconds,
    p50: latency(.5), p99: latency(.99),
    inUse: now.pool.in_use, waiting: now.pool.waiting,
    ratio: lookups > 0 ? Math.max(hits, 0) / lookups : last ? last.ratio : null,
    cacheBytes: now.cache.bytes, cacheCapacity: now.cache.capacity,
    budget: now.budget.used, budgetHard: now.budget.hard,
  });
  if (points.length > KEEP) points.shift();
  plots.forEach(draw);
  $('facts').textContent = `${number(now.store.documents)} documents, ${bytes(now.store.text_bytes)} of text, index of ${bytes(now.store.index_bytes)}; ` +
    `${number(now.connections)} clients; up ${duration(now.uptime_s)}; Patinox ${now.version}`;
  document.documentElement.dataset.points = points.length;
}

function pill(word, why) {
  $('health').textContent = word;
  $('health').className = 'pill ' + (word === 'unreachable' ? 'down' : word);
  $('health').title = why || '';
}

async function poll() {
  try {
    const [stats, health] = await Promise.all(['/stats.json', '/health'].map(url => fetch(url).then(r => r.json())));
    take(stats);
    pill(health.status, health.components.filter(c => c.status !== 'ok').map(c => `${c.kind} ${c.name}: ${c.reason}`).join('\n'));
  } catch (error) {
    pill('unreachable', error.message);
  }
  setTimeout(poll, POLL_MS);
}

addEventListener('resize', () => plots.forEach(draw));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => plots.forEach(draw));
arrive(history.state?.result);
poll();
})();
