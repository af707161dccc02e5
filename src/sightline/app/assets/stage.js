// The pictures: photo, heat above it, boxes above both. Opacity and blinking need no server.
let photo = '', size = [1, 1], cursor = null;
const board = () => element.querySelector('.sl-board');
const make = (tag, name, parent, text) => {
  const one = document.createElement(tag);
  if (name) one.className = name;
  if (text) one.textContent = text;
  if (parent) parent.appendChild(one);
  return one;
};

function drawBoxes(frame, boxes) {
  frame.querySelectorAll('.sl-box').forEach((old) => old.remove());
  for (const [x0, y0, x1, y1] of boxes) {
    const box = make('div', 'sl-box', frame);
    Object.assign(box.style, { left: `${x0 * 100}%`, top: `${y0 * 100}%`,
      width: `${(x1 - x0) * 100}%`, height: `${(y1 - y0) * 100}%` });
  }
}

function draw() {
  const value = props.value || {};
  if (!value.figures) return;
  if (value.photo) { photo = value.photo; size = value.size; cursor = null; }
  const place = board();
  place.replaceChildren();
  place.dataset.count = value.figures.length;
  for (const figure of value.figures) {
    const holder = make('figure', 'sl-figure', place);
    holder.style.maxWidth = `min(100%, calc(72vh * ${size[0] / size[1]}))`;
    const title = make('div', 'sl-title', holder);
    make('span', '', title, figure.title);
    const frame = make('div', 'sl-frame', holder);
    frame.tabIndex = 0;
    frame.setAttribute('role', 'application');
    frame.setAttribute('aria-label', `${figure.title}: ${figure.caption}. Click a point, or move with the arrow keys `
      + 'and press Enter, to hear which classes look there.');
    const below = make('img', 'sl-photo', frame);
    below.src = photo;
    below.alt = 'The photo';
    if (figure.heat) {
      const heat = make('img', 'sl-heat', frame);
      heat.src = figure.heat;
      heat.alt = `Heatmap by ${figure.title}`;
      const [x0, y0, x1, y1] = figure.region;
      Object.assign(heat.style, { left: `${x0 * 100}%`, top: `${y0 * 100}%`,
        width: `${(x1 - x0) * 100}%`, height: `${(y1 - y0) * 100}%` });
      frame.classList.add('sl-hot');
    }
    if (figure.note) make('p', 'sl-note', frame, figure.note);
    drawBoxes(frame, figure.boxes);
    const caption = make('figcaption', '', holder, figure.caption);
    caption.setAttribute('aria-live', 'polite');
  }
  const hint = document.querySelector('#sl-photo .sl-hint');
  if (hint) hint.textContent = value.message || '';
}

function mark(frame, x, y) {
  element.querySelectorAll('.sl-mark').forEach((old) => old.remove());
  const cross = make('div', 'sl-mark', frame);
  cross.style.left = `${x * 100}%`;
  cross.style.top = `${y * 100}%`;
}
const ask = (x, y) => trigger('point', { x: x * size[0], y: y * size[1] });

element.addEventListener('click', (event) => {
  const frame = event.target.closest('.sl-frame');
  if (!frame) return;
  const edges = frame.getBoundingClientRect();
  cursor = [(event.clientX - edges.left) / edges.width, (event.clientY - edges.top) / edges.height]
    .map((share) => Math.min(0.9999, Math.max(0, share)));
  mark(frame, ...cursor);
  ask(...cursor);
});
element.addEventListener('keydown', (event) => {
  const frame = event.target.closest('.sl-frame');
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!frame || !(step || event.key === 'Enter')) return;
  event.preventDefault();
  const by = event.shiftKey ? 0.1 : 0.02;
  cursor = (cursor || [0.5, 0.5]).map((share, i) => Math.min(0.9999, Math.max(0, share + (step ? step[i] * by : 0))));
  mark(frame, ...cursor);
  if (event.key === 'Enter') ask(...cursor);
});
watch('value', draw);
draw();
window.sightlineBoxes = (value) => {
  const figures = element.querySelectorAll('.sl-figure');
  (value.boxes || []).forEach((boxes, i) => {
    if (!figures[i]) return;
    drawBoxes(figures[i].querySelector('.sl-frame'), boxes);
    figures[i].querySelector('figcaption').textContent = value.captions[i];
  });
};
