'use strict';

// ---------------------------------------------------------------- table

const DIRECTION = { ascending: 1, descending: -1 };

function compareCells(a, b) {
  return a.tagName === 'TH'
    ? a.dataset.order.localeCompare(b.dataset.order, 'en', { numeric: true })
    : Number(a.dataset.order) - Number(b.dataset.order);
}

/** Sort by a column; failed rows stay last, and before them those without a value. */
function sortRows(body, column, direction) {
  const isFailed = row => 'failed' in row.dataset;
  const isMissing = row => row.cells[column].dataset.order === '';
  const rows = [...body.rows].sort((a, b) =>
    isFailed(a) - isFailed(b)
    || isMissing(a) - isMissing(b)
    || DIRECTION[direction] * compareCells(a.cells[column], b.cells[column]));
  body.append(...rows);
}

function enableSorting(table) {
  for (const button of table.tHead.querySelectorAll('button')) {
    button.addEventListener('click', () => {
      const header = button.closest('th');
      const order = [button.dataset.first, button.dataset.first === 'ascending' ? 'descending' : 'ascending'];
      const direction = order[Number(header.getAttribute('aria-sort') === order[0])];
      for (const other of table.tHead.querySelectorAll('[aria-sort]')) other.setAttribute('aria-sort', 'none');
      header.setAttribute('aria-sort', direction);
      sortRows(table.tBodies[0], Number(button.dataset.column), direction);
    });
  }
}

// ---------------------------------------------------------------- slider

function enableComparison(clip) {
  const stage = clip.querySelector('.stage');
  const range = stage.querySelector('input');
  const frames = [...stage.querySelectorAll('img')];
  const crops = [...clip.querySelectorAll('.crops button')];
  const selects = { left: clip.querySelector('select[data-side=left]'), right: clip.querySelector('select[data-side=right]') };
  const names = [...selects.left.options].map(option => option.textContent);

  function showSides() {
    for (const [side, select] of Object.entries(selects)) {
      const chosen = Number(select.value);
      frames.forEach((frame, i) => frame.classList.toggle(side, i === chosen));
      stage.querySelector(`.name.${side}`).textContent = names[chosen];
    }
    crops.forEach((crop, i) => {
      const sides = Object.keys(selects).filter(side => Number(selects[side].value) === i);
      if (sides.length) crop.dataset.side = sides.join(', ');
      else delete crop.dataset.side;
      crop.setAttribute('aria-pressed', String(sides.length > 0));
    });
    describe();
  }

  function describe() {
    range.setAttribute('aria-valuetext', `${range.value} % ${names[selects.left.value]}, then ${names[selects.right.value]}`);
  }

  function moveTo(percent) {
    const position = Math.min(100, Math.max(0, percent));
    stage.style.setProperty('--position', `${position}%`);
    range.value = position;
    describe();
  }

  function drag(event) {
    const box = stage.getBoundingClientRect();
    moveTo((event.clientX - box.left) / box.width * 100);
  }

  /** Show a method on one side; what it would meet on the other side changes places with it. */
  function select(side, index) {
    const other = side === 'left' ? 'right' : 'left';
    if (Number(selects[other].value) === index) selects[other].value = selects[side].value;
    selects[side].value = index;
    showSides();
  }

  range.addEventListener('input', () => moveTo(Number(range.value)));
  stage.addEventListener('pointerdown', event => {
    if (event.button !== 0) return;
    if (event.pointerType === 'mouse') event.preventDefault(); // would take the focus away from the range
    range.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  stage.addEventListener('pointermove', event => {
    if (stage.hasPointerCapture(event.pointerId)) drag(event);
  });
  for (const side of Object.values(selects)) side.addEventListener('change', showSides);
  crops.forEach((crop, i) => crop.addEventListener('click', event => select(event.shiftKey ? 'left' : 'right', i)));

  clip.querySelector('.compare').hidden = false;
  showSides();
  moveTo(Number(range.value));
}

// ---------------------------------------------------------------- command

function enableCopying(button) {
  const code = button.previousElementSibling;
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = 'Copied';
    } catch {
      getSelection().selectAllChildren(code); // no access to the clipboard: one key press is left to do
    }
  });
}

document.documentElement.classList.add('js');
document.querySelectorAll('table').forEach(enableSorting);
document.querySelectorAll('.clip').forEach(enableComparison);
document.querySelectorAll('.copy').forEach(enableCopying);
