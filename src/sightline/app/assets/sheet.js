// The contact sheet: a click opens the photo.
function draw() {
  const place = element.querySelector('.sl-tiles');
  place.replaceChildren();
  (props.value || []).forEach((tile, number) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'sl-tile';
    button.setAttribute('aria-label', `Photo ${number + 1}, ${tile.name}: ${tile.label}`);
    const picture = document.createElement('img');
    picture.src = tile.picture;
    picture.alt = '';
    const name = document.createElement('span');
    name.textContent = tile.label;
    button.append(picture, name);
    button.addEventListener('click', () => trigger('pick', { number }));
    place.appendChild(button);
  });
}
watch('value', draw);
draw();
