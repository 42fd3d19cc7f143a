// The search page: what is searched stands in the address, so that links and the back button work.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const search = document.querySelector(".search");
  const results = document.querySelector(".results");
  const whole = search.dataset.whole;
  const maxBytes = Number(search.dataset.maxBytes);
  const defaultCount = byId("k").value;
  const tries = 5; // of a request while the server is busy
  const nearlyNothing = 0.0005; // a distance that is shown as 0.000: a picture of the gallery itself

  // Pictures of the user by number. They are in this window alone: an address cannot hold them.
  const ownPictures = new Map();
  // Answers by entry of the history: going back shows the same images at once.
  const answers = new Map();
  let entry = 0;
  let request = new AbortController();

  const announce = (text) => {
    byId("announcement").textContent = text;
  };

  const show = (element, isShown) => {
    element.hidden = !isShown;
  };

  // What the address says, without what is not its default.
  const readAddress = () => {
    const given = new URLSearchParams(location.search);
    return {
      image: given.get("image"),
      own: given.get("own"),
      space: given.get("space") || whole,
      k: given.get("k") || defaultCount,
      class: given.get("class") || "",
    };
  };

  const address = (state) => {
    const given = new URLSearchParams();
    if (state.own) given.set("own", state.own);
    else if (state.image !== null) given.set("image", state.image);
    if (state.space !== whole) given.set("space", state.space);
    if (state.k !== defaultCount) given.set("k", state.k);
    if (state.class) given.set("class", state.class);
    const text = given.toString();
    return text ? `/?${text}` : "/";
  };

  const wait = (seconds, signal) =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, 1000 * seconds);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        reject(signal.reason);
      });
    });

  // Returns the answer of the server; throws an error with its reason.
  const ask = async (path, given, { body, signal } = {}) => {
    const url = `${path}?${new URLSearchParams(given)}`;
    for (let left = tries; ; left -= 1) {
      let response;
      try {
        response = await fetch(url, { method: body ? "POST" : "GET", body, signal });
      } catch (error) {
        if (signal?.aborted) throw error;
        throw new Error("The server does not answer; it may have ended.");
      }
      if (response.status === 503 && left > 1) {
        await wait(Number(response.headers.get("Retry-After")) || 1, signal);
        continue;
      }
      const answer = await response.json().catch(() => ({}));
      if (!response.ok) throw new Error(answer.error || `The server answers ${response.status}.`);
      return answer;
    }
  };

  const form = (file) => {
    const data = new FormData();
    data.append("image", file, "picture");
    return data;
  };

  // Returns what is shown in a state: the query, if there is one, and images.
  const load = async (state, signal) => {
    const given = { k: state.k };
    if (state.class) given.class = state.class;
    if (state.own === null && state.image === null) {
      const answer = await ask("/sample", given, { signal });
      return { query: null, images: answer.images, message: answer.message };
    }
    given.space = state.space;
    let answer;
    if (state.own !== null) {
      const file = ownPictures.get(state.own);
      if (!file) {
        throw new Error("This address is of a picture that is not kept; choose it again.");
      }
      if (file.size > maxBytes) {
        const limit = maxBytes / 2 ** 20;
        throw new Error(`The picture is too large; up to ${limit} MiB are read, make it smaller.`);
      }
      answer = await ask("/search", given, { body: form(file), signal });
      answer.query = { name: file.name };
    } else {
      answer = await ask("/search", { image: state.image, ...given }, { signal });
    }
    return { query: answer.query, images: answer.neighbors, message: answer.message };
  };

  // Small pictures, as of digits, are enlarged without blur.
  const setPicture = (picture, missing, source) => {
    picture.addEventListener("load", () => {
      picture.classList.toggle("pixels", picture.naturalWidth < 64);
    });
    picture.addEventListener("error", () => {
      show(picture, false);
      show(missing, true);
    });
    picture.src = source;
  };

  // Shows a name, which may be broken after these characters, and all of it on hover.
  const setName = (element, text, whole = text) => {
    const parts = text.split(/(?<=[_./-])/u);
    element.replaceChildren(...parts.flatMap((part) => [document.createElement("wbr"), part]));
    element.title = whole;
    show(element, text !== "");
  };

  const lastPart = (name) => name.split("/").pop() || name;
  const folder = (name) => name.split("/").slice(0, -1).slice(-2).join("/");

  const createTile = (image, state, query) => {
    const item = byId("tile").content.firstElementChild.cloneNode(true);
    const find = (selector) => item.querySelector(selector);
    const link = find("a");
    link.href = address({ ...state, own: null, image: String(image.image) });
    link.dataset.image = image.image;
    setPicture(find("img"), find(".missing"), `/images/${image.image}`);
    const distance = find(".distance");
    if (image.distance !== undefined) {
      show(distance, true);
      if (query?.class) {
        const isHit = image.class === query.class;
        find("figure").classList.add(isHit ? "hit" : "miss");
        const mark = byId(isHit ? "mark-of-hit" : "mark-of-miss");
        distance.append(mark.content.cloneNode(true), " ");
      }
      const word = document.createElement("span");
      word.className = "unseen";
      word.textContent = "distance ";
      distance.append(word, image.distance.toFixed(3));
      show(find(".same"), image.distance < nearlyNothing);
    }
    setName(find(".class"), image.class);
    setName(find(".path"), lastPart(image.name), image.name);
    const place = folder(image.name);
    setName(find(".folder"), place === image.class ? "" : place, image.name);
    const full = find(".full");
    full.href = `/images/${image.image}/full`;
    full.setAttribute("aria-label", `Full size of ${lastPart(image.name)}, in a new tab`);
    return item;
  };

  const renderQuery = (state, query) => {
    const isSearch = state.own !== null || state.image !== null;
    const file = ownPictures.get(state.own);
    const isShown = file !== undefined || (state.image !== null && query !== null);
    show(byId("query"), isShown);
    show(byId("invitation"), !isShown);
    show(byId("start"), isSearch);
    // A new element: events of the picture before must not reach this one.
    const before = byId("query-picture");
    const picture = before.cloneNode();
    picture.removeAttribute("src");
    show(picture, true);
    show(byId("query-missing"), false);
    before.replaceWith(picture);
    if (!isShown) return;
    setPicture(picture, byId("query-missing"), file ? file.url : `/images/${state.image}`);
    const name = query?.name || file?.name || "";
    setName(byId("query-class"), query?.class || (file ? "Your picture" : ""));
    setName(byId("query-name"), lastPart(name), name);
    byId("query-copy").dataset.copy = name;
  };

  const renderFields = (state) => {
    byId("k").value = state.k;
    if (byId("k").value !== state.k) {
      byId("k").add(new Option(state.k, state.k)); // of a link that somebody has written
      byId("k").value = state.k;
    }
    if (byId("space")) byId("space").value = state.space;
    if (byId("class")) {
      byId("class").value = state.class;
      refuseClass("");
    }
  };

  const describe = (state, { query, images, message }) => {
    if (message) return "Nothing found";
    const count = images.length;
    if (query === null) return "Images of the gallery";
    return count === 1 ? "The nearest image" : `The ${count} nearest images`;
  };

  const explain = (state, { query, images }) => {
    const parts = [];
    if (query !== null && byId("space")) {
      const isWhole = state.space === whole;
      parts.push(isWhole ? "in the whole embedding" : `in the subspace of cluster ${state.space}`);
    }
    if (state.class) parts.push(`of the class ${state.class}`);
    if (query === null && !state.class) parts.push("a few at random");
    if (query?.class && images.length) {
      const hits = images.filter((image) => image.class === query.class).length;
      parts.push(`${hits} of ${images.length} of the query’s class`);
    }
    const text = parts.join(", ");
    return text && `${text[0].toUpperCase()}${text.slice(1)}.`;
  };

  const render = (state, answer) => {
    renderQuery(state, answer.query);
    const heading = describe(state, answer);
    byId("heading").textContent = heading;
    byId("explanation").textContent = explain(state, answer);
    show(byId("legend"), Boolean(answer.query?.class) && answer.images.length > 0);
    show(byId("others"), answer.query === null && !answer.message);
    setNotice(answer.message);
    byId("tiles").replaceChildren(
      ...answer.images.map((image) => createTile(image, state, answer.query)),
    );
    announce([heading, byId("explanation").textContent, answer.message].filter(Boolean).join(". "));
  };

  const renderError = (state, error) => {
    renderQuery(state, null);
    byId("heading").textContent = "No result";
    byId("explanation").textContent = "";
    show(byId("legend"), false);
    show(byId("others"), false);
    setNotice(error.message);
    byId("tiles").replaceChildren();
    announce(error.message);
  };

  const setNotice = (text) => {
    byId("notice").textContent = text;
    show(byId("notice"), text !== "");
  };

  // Shows what the address says. `focuses`: the element that had the focus is there no longer.
  const update = async ({ focuses = false } = {}) => {
    request.abort();
    request = new AbortController();
    const { signal } = request;
    const state = readAddress();
    renderFields(state);
    results.setAttribute("aria-busy", "true");
    let answer = answers.get(entry);
    try {
      if (!answer) answer = await load(state, signal);
      if (signal.aborted) return;
      answers.set(entry, answer);
      render(state, answer);
    } catch (error) {
      if (signal.aborted) return;
      renderError(state, error);
    }
    results.setAttribute("aria-busy", "false");
    if (focuses) byId("heading").focus({ preventScroll: true });
  };

  let lastEntry = 0;
  const go = (changes, options) => {
    lastEntry += 1;
    entry = lastEntry;
    history.pushState({ entry }, "", address({ ...readAddress(), ...changes }));
    return update(options);
  };

  const searchFor = (file) => {
    if (!file) return;
    const number = String(ownPictures.size + 1);
    file.url = URL.createObjectURL(file);
    ownPictures.set(number, file);
    scrollTo(0, 0);
    go({ own: number, image: null }, { focuses: true });
  };

  // Other windows and tabs: the browser follows the link itself.
  const isPlain = (event) =>
    event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;

  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-image], a[data-start]");
    if (!link || !isPlain(event)) return;
    event.preventDefault();
    scrollTo(0, 0);
    go({ own: null, image: link.dataset.image ?? null }, { focuses: true });
  });

  addEventListener("popstate", (event) => {
    entry = event.state?.entry ?? 0;
    update({ focuses: results.contains(document.activeElement) });
  });

  byId("file").addEventListener("change", () => {
    searchFor(byId("file").files[0]);
    byId("file").value = ""; // the same picture may be chosen again
  });

  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) {
      event.preventDefault();
      searchFor(files[0]);
    } else if (!event.target.closest?.("input")) {
      announce("The clipboard has no picture");
    }
  });

  // A picture may be dropped anywhere; the browser would open it otherwise.
  let depth = 0;
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const setOver = (isOver) => byId("drop").classList.toggle("over", isOver);
  addEventListener("dragenter", (event) => {
    depth += 1;
    setOver(hasFiles(event));
  });
  addEventListener("dragleave", () => {
    depth -= 1;
    if (depth <= 0) setOver(false);
  });
  addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    depth = 0;
    setOver(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    searchFor(event.dataTransfer.files[0]);
  });

  byId("others").addEventListener("click", () => {
    answers.delete(entry);
    update();
  });

  byId("fields").addEventListener("submit", (event) => event.preventDefault());
  byId("k").addEventListener("change", () => go({ k: byId("k").value }));
  byId("space")?.addEventListener("change", () => go({ space: byId("space").value }));

  // Classes: there may be thousands, so the server lists those that hold what is typed.
  const refuseClass = (reason) => {
    byId("class-error").textContent = reason;
    byId("class").toggleAttribute("aria-invalid", false);
    if (reason) byId("class").setAttribute("aria-invalid", "true");
  };

  const listClasses = async (text) => {
    const answer = await ask("/classes", { containing: text });
    byId("classes").replaceChildren(...answer.classes.map((name) => new Option(name, name)));
    return answer;
  };

  const chooseClass = async () => {
    const text = byId("class").value;
    if (text === readAddress().class) return refuseClass("");
    if (!text) return go({ class: "" });
    try {
      const { classes, count } = await listClasses(text);
      if (classes.includes(text)) return go({ class: text });
      if (count === 1) return go({ class: classes[0] });
      refuseClass(count ? `${count} classes hold this text; choose one.` : "There is no such class.");
    } catch (error) {
      refuseClass(error.message);
    }
  };

  if (byId("class")) {
    let timer;
    byId("class").addEventListener("focus", () => listClasses(byId("class").value).catch(() => {}));
    byId("class").addEventListener("input", (event) => {
      clearTimeout(timer);
      // A choice from the list, or the cross that empties the field, counts at once.
      const isChoice = event.inputType === "insertReplacementText" || !event.inputType;
      if (isChoice || !byId("class").value) chooseClass();
      else timer = setTimeout(() => listClasses(byId("class").value).catch(() => {}), 120);
    });
    byId("class").addEventListener("change", chooseClass);
  }

  history.replaceState({ entry }, "");
  update();
})();
