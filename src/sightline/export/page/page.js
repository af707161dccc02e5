// A photo in; classes, heatmaps and boxes out, all in this page. The graph in model.onnx does the network and the maps;
// here: the photo's size, the threshold, the largest region, the drawing.
'use strict';
const $ = (id) => document.getElementById(id);
const disk = location.protocol === 'file:';
let about, session, shown, chosen = { k: 0, method: 0 }, drawn = 0;

const say = (text) => { $('status').textContent = text; };
const script = (name) => new Promise((resolve, reject) => {
  const one = document.createElement('script');
  one.src = name;
  one.onload = resolve;
  one.onerror = () => reject(new Error(`${name} is missing`));
  document.head.append(one);
});
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

async function start() {
  await script('ort.wasm.min.js');
  ort.env.wasm.numThreads = 1;
  let model = 'model.onnx';
  if (disk) {  // a page on the disk may not read the files beside it, but it may run scripts that hold them
    await script('from-disk.js');
    about = fromDisk['model.json'];
    model = bytesOf(fromDisk['model.onnx']);
    ort.env.wasm.wasmBinary = bytesOf(fromDisk['ort-wasm-simd-threaded.wasm']).buffer;
    const glue = new Blob([bytesOf(fromDisk['ort-wasm-simd-threaded.mjs'])], { type: 'text/javascript' });
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(glue) };
    fromDisk = null;
  } else {
    ort.env.wasm.wasmPaths = new URL('./', location.href).href;
    about = await (await fetch('model.json')).json();
  }
  session = await ort.InferenceSession.create(model, { executionProviders: ['wasm'] });
  $('about').textContent = `${about.model.name}, ${about.categories.length.toLocaleString('en')} classes`;
  for (const name of Object.keys(about.colours)) $('colours').add(new Option(name));
  choices($('methods'), 'method', about.methods.map((one) => [one.name, '']), (number) => {
    chosen.method = number;
    setThreshold(about.methods[number].threshold);
  });
  setThreshold(about.methods[0].threshold);
  document.body.dataset.ready = 'yes';
}

// --------------------------------------------------------------------------------------------------- the photo

// Pillow's resize: a filter as wide as the step where the photo shrinks, each pass rounded to 8 bits.
const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => {
    const a = -0.5, t = Math.abs(x);
    if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
    return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
  }],
};

function weights(from, to, kind) {
  const [reach, filter] = FILTERS[kind] || FILTERS.bilinear;
  const scale = from / to, wide = Math.max(1, scale), found = [];
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach * wide + 0.5));
    const last = Math.min(from, Math.trunc(centre + reach * wide + 0.5));
    const taps = [];
    for (let j = first; j < last; j++) taps.push(filter((j - centre + 0.5) / wide));
    const total = taps.reduce((sum, one) => sum + one, 0);
    found.push([first, taps.map((one) => one / total)]);
  }
  return found;
}

const eight = (value) => Math.max(0, Math.min(255, Math.floor(value + 0.5)));

function resized(pixels, width, height, toWidth, toHeight, kind) {
  const across = weights(width, toWidth, kind), down = weights(height, toHeight, kind);
  const middle = new Uint8Array(toWidth * height * 3), out = new Float32Array(3 * toWidth * toHeight);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < toWidth; x++) {
      const [first, taps] = across[x];
      let r = 0, g = 0, b = 0, at = (y * width + first) * 4;
      for (const tap of taps) { r += tap * pixels[at]; g += tap * pixels[at + 1]; b += tap * pixels[at + 2]; at += 4; }
      const to = (y * toWidth + x) * 3;
      middle[to] = eight(r); middle[to + 1] = eight(g); middle[to + 2] = eight(b);
    }
  }
  const plane = toWidth * toHeight;
  for (let y = 0; y < toHeight; y++) {
    const [first, taps] = down[y];
    for (let x = 0; x < toWidth; x++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        taps.forEach((tap, j) => { sum += tap * middle[((first + j) * toWidth + x) * 3 + c]; });
        out[c * plane + y * toWidth + x] = eight(sum) / 255;
      }
    }
  }
  return out;
}

async function open(file) {
  if (!session) return say('The network is still loading.');
  if (file.size > 60e6) return say('That file is larger than 60 MB.');
  say('Looking …');
  const mine = ++drawn;
  try {
    const bitmap = await createImageBitmap(file, { imageOrientation: 'from-image' });
    await look(bitmap, file.name || 'photo', mine);
  } catch (error) {
    if (mine === drawn) say(error.name === 'InvalidStateError' ? 'That is not an image this browser can read.'
      : `That did not work: ${error.message}`);
  }
}

async function look(bitmap, name, mine) {
  const shrink = Math.min(1, 2048 / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * shrink)), height = Math.max(1, Math.round(bitmap.height * shrink));
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext('2d', { willReadFrequently: true });
  pen.imageSmoothingQuality = 'high';
  pen.fillStyle = '#fff';
  pen.fillRect(0, 0, width, height);
  pen.drawImage(bitmap, 0, 0, width, height);
  const [H, W] = about.input.hw;
  const image = resized(pen.getImageData(0, 0, width, height).data, width, height, W, H, about.input.interpolation);
  const started = performance.now();
  const found = await session.run({ image: new ort.Tensor('float32', image, [1, 3, H, W]) });
  if (mine !== drawn) return;  // another photo came in the meantime
  shown = { canvas, name, width: bitmap.width, height: bitmap.height, found,
    classes: Array.from(found.classes.data, Number), scores: Array.from(found.scores.data) };
  document.body.dataset.milliseconds = Math.round(performance.now() - started);
  chosen.k = 0;
  $('photo').width = width;
  $('photo').height = height;
  $('photo').getContext('2d').drawImage(canvas, 0, 0);
  $('stage').style.maxWidth = `min(100%, calc(72vh * ${width / height}))`;
  choices($('classes'), 'class', shown.classes.map((c, k) => [about.categories[c], score(k)]),
    (k) => { chosen.k = k; draw(); });
  $('stage').hidden = $('controls').hidden = false;
  say(unsure(shown.scores) ? about.unsure.note : '');
  draw();
}

const unsure = (scores) => Math.max(...scores) < about.unsure.below;  // never where the model states no such score: 0
const score = (k) => (about.percent ? `${(100 * shown.scores[k]).toFixed(1)}\u00a0%` : shown.scores[k].toPrecision(3));

// -------------------------------------------------------------------------------------------------- heat and box

function heat() {
  const [H, W] = about.input.hw, all = shown.found[about.methods[chosen.method].output].data;
  return all.subarray(chosen.k * H * W, (chosen.k + 1) * H * W);
}

// The box of the largest 8-connected region of values >= threshold * maximum and > 0; the first of ties.
function largestBox(values, width, height, threshold) {
  let most = 0;
  for (const value of values) most = Math.max(most, value);
  const cut = threshold * most, seen = new Uint8Array(values.length), stack = [];
  let best = null;
  const kept = (i) => values[i] >= cut && values[i] > 0;
  for (let start = 0; start < values.length; start++) {
    if (seen[start] || !kept(start)) continue;
    let area = 0, x0 = width, y0 = height, x1 = 0, y1 = 0;
    stack.push(start);
    seen[start] = 1;
    while (stack.length) {
      const i = stack.pop(), x = i % width, y = (i - x) / width;
      area++;
      x0 = Math.min(x0, x); x1 = Math.max(x1, x + 1); y0 = Math.min(y0, y); y1 = Math.max(y1, y + 1);
      for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++) {
        for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) {
          const j = v * width + u;
          if (!seen[j] && kept(j)) { seen[j] = 1; stack.push(j); }
        }
      }
    }
    if (!best || area > best.area) best = { area, box: [x0 / width, y0 / height, x1 / width, y1 / height] };
  }
  return best && best.box;
}

function draw() {
  if (!shown) return;
  const [H, W] = about.input.hw, values = heat(), table = about.colours[$('colours').value];
  const canvas = $('heat');
  canvas.width = W;
  canvas.height = H;
  const pen = canvas.getContext('2d'), picture = pen.createImageData(W, H);
  for (let i = 0; i < values.length; i++) {
    const level = Math.round(Math.min(1, Math.max(0, values[i])) * 255) * 3;
    picture.data.set([table[level], table[level + 1], table[level + 2], 255], i * 4);
  }
  pen.putImageData(picture, 0, 0);
  drawBox();
}

function drawBox() {
  if (!shown) return;
  const [H, W] = about.input.hw, box = largestBox(heat(), W, H, Number($('threshold').value));
  const name = about.categories[shown.classes[chosen.k]];
  shown.box = box && [box[0] * shown.width, box[1] * shown.height, box[2] * shown.width, box[3] * shown.height];
  $('box').hidden = !box;
  if (box) {
    Object.assign($('box').style, { left: `${box[0] * 100}%`, top: `${box[1] * 100}%`,
      width: `${(box[2] - box[0]) * 100}%`, height: `${(box[3] - box[1]) * 100}%` });
  }
  const whole = shown.box && shown.box.map((side) => Math.round(side));
  $('caption').textContent = `${name} ${score(chosen.k)}; `
    + (box ? `box ${whole[0]}, ${whole[1]} to ${whole[2]}, ${whole[3]}` : 'no box');
}

function save() {
  const { canvas, box, width, height, name } = shown, out = document.createElement('canvas');
  out.width = canvas.width;
  out.height = canvas.height;
  const pen = out.getContext('2d');
  pen.filter = 'grayscale(.6)';
  pen.drawImage(canvas, 0, 0);
  pen.filter = 'none';
  pen.globalAlpha = Number($('opacity').value);
  pen.drawImage($('heat'), 0, 0, out.width, out.height);
  pen.globalAlpha = 1;
  if (box) {
    const [sx, sy] = [out.width / width, out.height / height];
    for (const [colour, line] of [['#181a1f', 6], ['#fff', 3]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = line;
      pen.strokeRect(box[0] * sx, box[1] * sy, (box[2] - box[0]) * sx, (box[3] - box[1]) * sy);
    }
  }
  const link = document.createElement('a');
  link.download = `${name.replace(/\.[^.]*$/, '')}.png`;
  link.href = out.toDataURL('image/png');
  link.click();
}

// --------------------------------------------------------------------------------------------------- the controls

function choices(place, group, rows, act) {
  place.replaceChildren(...rows.map(([name, value], number) => {
    const label = document.createElement('label'), input = document.createElement('input');
    Object.assign(input, { type: 'radio', name: group, checked: number === 0 });
    input.addEventListener('change', () => act(number));
    const text = document.createElement('span'), right = document.createElement('span');
    text.textContent = name;
    right.textContent = value;
    label.append(input, text, right);
    return label;
  }));
}

function setThreshold(value) {
  $('threshold').value = value;
  $('threshold-value').textContent = Number(value).toFixed(2);
  draw();
}

let stream = null;
async function openCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
  } catch (error) {
    return $('capture').click();
  }
  document.querySelector('video').srcObject = stream;
  $('viewfinder').hidden = false;
  $('take').focus();
}
function closeCamera() {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
  $('viewfinder').hidden = true;
}
function take() {
  const video = document.querySelector('video'), canvas = document.createElement('canvas');
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext('2d').drawImage(video, 0, 0);
  canvas.toBlob((blob) => { closeCamera(); open(new File([blob], 'camera.jpg')); }, 'image/jpeg', 0.92);
}

const first = (list) => { if (list && list.length) open(list[0]); };
for (const id of ['file', 'capture']) {
  $(id).addEventListener('change', (event) => { first(event.target.files); event.target.value = ''; });
}
$('choose').addEventListener('click', () => $('file').click());
$('camera').addEventListener('click', openCamera);
$('take').addEventListener('click', take);
$('cancel').addEventListener('click', closeCamera);
$('save').addEventListener('click', save);
$('threshold').addEventListener('input', (event) => {
  $('threshold-value').textContent = Number(event.target.value).toFixed(2);
  drawBox();
});
$('opacity').addEventListener('input', (event) => { $('heat').style.opacity = event.target.value; });
$('colours').addEventListener('change', draw);
document.addEventListener('dragover', (event) => { event.preventDefault(); $('drop').classList.add('over'); });
document.addEventListener('dragleave', () => $('drop').classList.remove('over'));
document.addEventListener('drop', (event) => {
  event.preventDefault();
  $('drop').classList.remove('over');
  first(event.dataTransfer.files);
});
document.addEventListener('paste', (event) => first((event.clipboardData || {}).files));

start().catch((error) => {
  $('about').textContent = disk && !window.fromDisk
    ? 'This copy of the page must be opened through a web server, such as: python3 -m http.server'
    : `The network could not be loaded: ${error.message}`;
  document.body.dataset.ready = 'no';
});
