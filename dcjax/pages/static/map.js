// The map of embeddings: one projection at a time, and the image at a point by pointer or keyboard.
"use strict";
(() => {
  const map = document.getElementById("the-map");
  const { classes, images, projections } = JSON.parse(
    document.getElementById("map-data").textContent,
  );
  const view = map.querySelector(".view");
  const card = map.querySelector(".card");
  const figures = [...map.querySelectorAll(".projection")];
  let shown = 0; // number of the projection
  let current = -1; // number of the image, -1 for none

  const svg = () => figures[shown].querySelector("svg");
  const announce = (text) => {
    document.getElementById("announcement").textContent = text;
  };

  // A ring around the current point.
  const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  ring.setAttribute("class", "ring");
  ring.setAttribute("r", "1");

  const picture = document.createElement("img");
  picture.alt = "";
  const className = document.createElement("bdi");
  const fileName = document.createElement("bdi");
  className.className = "name strong";
  fileName.className = "name muted";
  card.append(picture, className, fileName);

  const hide = () => {
    current = -1;
    card.hidden = true;
    ring.remove();
    svg().classList.remove("one-class");
  };

  const show = (number) => {
    current = number;
    const [name, label, source] = images[number];
    const [x, y] = projections[shown][number];
    picture.hidden = !source;
    if (source) picture.src = source;
    className.textContent = classes[label];
    fileName.textContent = name;
    // The other points of its class stay as they are, all others fade.
    svg().querySelector("g.current")?.classList.remove("current");
    svg().querySelectorAll("g")[label].classList.add("current");
    svg().classList.add("one-class");
    ring.setAttribute("transform", `translate(${x} ${y})`);
    svg().append(ring);
    card.hidden = false;
    place(x, y);
  };

  // Puts the card beside a point, inside the view.
  const place = (x, y) => {
    const frame = view.getBoundingClientRect();
    const drawing = svg().getBoundingClientRect();
    const scale = drawing.width / svg().viewBox.baseVal.width;
    const left = drawing.left - frame.left + x * scale;
    const top = drawing.top - frame.top + y * scale;
    const beside = left + 16 + card.offsetWidth <= frame.width ? left + 16 : left - 16 - card.offsetWidth;
    card.style.left = `${Math.max(0, Math.min(beside, frame.width - card.offsetWidth))}px`;
    card.style.top = `${Math.max(0, Math.min(top - card.offsetHeight / 2, frame.height - card.offsetHeight))}px`;
  };

  // The image that is nearest by `distance`, a function of differences in x and y.
  const nearest = (from, distance) => {
    let best = -1;
    let least = Infinity;
    projections[shown].forEach(([x, y], number) => {
      const value = number === current ? Infinity : distance(x - from[0], y - from[1]);
      if (value < least) [least, best] = [value, number];
    });
    return best;
  };

  const middle = () => [svg().viewBox.baseVal.width / 2, svg().viewBox.baseVal.height / 2];

  const showAndRead = (number) => {
    if (number < 0) return; // no point lies in that direction
    show(number);
    const [name, label] = images[number];
    announce(`Class ${classes[label]}, ${name}`);
  };

  view.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return; // scrolls; a tap arrives as a click
    find(event);
  });
  view.addEventListener("click", (event) => find(event));
  view.addEventListener("pointerleave", () => document.activeElement !== view && hide());

  const find = (event) => {
    const drawing = svg().getBoundingClientRect();
    const scale = svg().viewBox.baseVal.width / drawing.width;
    const from = [(event.clientX - drawing.left) * scale, (event.clientY - drawing.top) * scale];
    const before = current;
    current = -1; // it may be found again
    const number = nearest(from, Math.hypot);
    const [x, y] = projections[shown][number];
    current = before;
    if (Math.hypot(x - from[0], y - from[1]) > 24 * scale) hide();
    else if (number !== current) show(number);
  };

  // Directions of the arrow keys. A point straight ahead is nearer than one that lies to the side;
  // points that lie more to the side than ahead are reached by the other keys.
  const directions = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
  view.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const direction = directions[event.key];
    if (direction) {
      const [dx, dy] = direction;
      const distance = (x, y) => {
        const ahead = x * dx + y * dy;
        const aside = Math.abs(x * dy - y * dx);
        return ahead > 0 && aside <= ahead ? ahead + 2 * aside : Infinity;
      };
      const from = current < 0 ? middle() : projections[shown][current];
      showAndRead(nearest(from, current < 0 ? Math.hypot : distance));
    } else if (event.key === "Home") {
      current = -1;
      showAndRead(nearest(middle(), Math.hypot));
    } else if (event.key === "Escape") {
      hide();
    } else {
      return;
    }
    event.preventDefault();
  });
  view.addEventListener("blur", hide);

  const choose = (number) => {
    hide();
    shown = number;
    figures.forEach((figure, i) => (figure.hidden = i !== number));
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === number)));
  };
  const buttons = figures.map((figure, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "button";
    button.textContent = figure.dataset.name;
    button.addEventListener("click", () => choose(number));
    return button;
  });
  const group = map.querySelector(".switch");
  group.append(...buttons);
  group.hidden = false;

  // The card stands for the tooltips, and the buttons for the captions.
  map.querySelectorAll("title").forEach((title) => title.remove());
  figures.forEach((figure) => figure.querySelector("figcaption").remove());
  view.tabIndex = 0;
  view.setAttribute("role", "application");
  view.setAttribute("aria-roledescription", "map");
  view.setAttribute("aria-label", "Map of images");
  view.setAttribute("aria-describedby", "map-help");
  choose(0);
})();
