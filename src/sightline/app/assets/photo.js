// The photo input: drop, paste, choose, photograph. The files go to the server as text, in the event itself.
const find = (selector) => element.querySelector(selector);
const say = (text) => { find('.sl-hint').textContent = text; };
const maxBytes = props.max_bytes, maxPhotos = props.max_photos;
let stream = null;

const asText = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.split(',', 2)[1] || '');
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(blob);
});

async function send(list) {
  const files = [...list].filter((f) => !f.type || f.type.startsWith('image/'));
  if (!files.length) return say('That is not an image (JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF).');
  if (files.length > maxPhotos) return say(`${files.length} photos; at most ${maxPhotos} at a time.`);
  const size = files.reduce((sum, f) => sum + f.size, 0);
  if (size > maxBytes) return say(`${(size / 1e6).toFixed(1)} MB; at most ${maxBytes / 1e6} MB at a time.`);
  say(files.length > 1 ? `Looking at ${files.length} photos …` : 'Looking …');
  const sent = [];
  for (const f of files) sent.push({ name: f.name || 'photo', data: await asText(f) });
  trigger('photo', { files: sent });
}

async function openCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
  } catch (error) {
    return find('.sl-capture').click();  // a phone's own camera; on a computer, a file
  }
  find('video').srcObject = stream;
  find('.sl-camera').hidden = false;
  find('[data-do=take]').focus();
}

function closeCamera() {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
  find('.sl-camera').hidden = true;
}

function take() {
  const video = find('video'), canvas = document.createElement('canvas');
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext('2d').drawImage(video, 0, 0);
  canvas.toBlob((blob) => { closeCamera(); send([new File([blob], 'camera.jpg', { type: 'image/jpeg' })]); },
    'image/jpeg', 0.92);
}

element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-do]');
  if (!button) return;
  const what = button.dataset.do;
  if (what === 'choose') find('.sl-file').click();
  if (what === 'camera') openCamera();
  if (what === 'take') take();
  if (what === 'cancel') closeCamera();
  if (what === 'example') { say('Looking …'); trigger('example', { name: button.dataset.name }); }
});
element.addEventListener('change', (event) => {
  if (event.target.files && event.target.files.length) send(event.target.files);
  event.target.value = '';
});
for (const kind of ['dragenter', 'dragover']) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    find('.sl-drop').classList.add('sl-over');
  });
}
for (const kind of ['dragleave', 'drop']) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    find('.sl-drop').classList.remove('sl-over');
  });
}
document.addEventListener('drop', (event) => { if (event.dataTransfer.files.length) send(event.dataTransfer.files); });
document.addEventListener('paste', (event) => {
  const files = [...(event.clipboardData || {}).files || []];
  if (files.length) send(files);
});
