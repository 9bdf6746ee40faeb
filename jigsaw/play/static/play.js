// The board, and the talk with the server. Pieces are known by their place in the puzzle as it was shown, from 1.
"use strict";

const DRAG = 6; // pixels: what moves less is a click
const find = (id) => document.getElementById(id);

/** What is asked of the server; an error is a line for the visitor. */
async function ask(path, body) {
  const headers = { "X-Jigsaw-Visit": sessionStorage.getItem("visit") ?? "" };
  let answer;
  try {
    answer = await fetch(path, { method: "POST", headers, body });
  } catch {
    throw new Error("The server does not answer.");
  }
  const said = await answer.json().catch(() => ({ error: `The server answers ${answer.status}.` }));
  if (!answer.ok || said.error) throw new Error(said.error);
  return said;
}

let said = 0;
/** Tell the visitor, also one who only hears; the same words twice are told twice. */
function tell(words, isWrong = false) {
  const place = find("said");
  place.classList.toggle("wrong", isWrong);
  place.textContent = words + (said++ % 2 ? "\u00a0" : "");
}

/** Pieces in an order that a visitor changes. */
class Board {
  constructor(list) {
    this.list = list;
    this.held = null;
    list.addEventListener("click", (event) => this.click(event));
    list.addEventListener("keydown", (event) => this.key(event));
    list.addEventListener("pointerdown", (event) => this.press(event));
  }

  begin(puzzle) {
    this.letGo?.();
    this.puzzle = puzzle;
    this.order = puzzle.pieces.map((_, index) => index + 1);
    this.held = null;
    layOut(this.list, puzzle);
    this.draw();
  }

  /** Called when the order is another than the one that was checked. */
  onMove() {}

  /** Draw the pieces; places is known once they were checked. */
  draw(places = null, focused = null) {
    const { puzzle, order } = this;
    this.list.replaceChildren(
      ...order.map((number, place) => {
        const button = pieceOf(puzzle, number, place, "button", places?.[place]);
        button.type = "button";
        button.classList.toggle("held", this.held === number);
        button.setAttribute("aria-pressed", String(this.held === number));
        return slot(button);
      }),
    );
    if (focused !== null) this.at(this.order.indexOf(focused))?.focus();
  }

  at(place) {
    return this.list.children[place]?.firstChild;
  }

  numberOf(element) {
    return Number(element?.closest?.("#board .piece")?.dataset.number) || null;
  }

  hold(number) {
    this.held = number;
    this.draw(null, number);
    tell(`Piece ${number} is picked up. Choose where it goes.`);
  }

  putBack(number) {
    this.held = null;
    this.draw(null, number);
    tell("Nothing is picked up.");
  }

  /** In a grid two pieces change places; in a row the others make room. A piece that is picked up stays so by keyboard. */
  move(number, place, held = null) {
    const from = this.order.indexOf(number);
    if (this.puzzle.grid) {
      this.order[from] = this.order[place];
      this.order[place] = number;
    } else {
      this.order.splice(from, 1);
      this.order.splice(place, 0, number);
    }
    this.held = held;
    this.onMove();
    this.draw(null, number);
    tell(`Piece ${number} is now ${placeName(this.puzzle, place)}.`);
  }

  click(event) {
    const number = this.numberOf(event.target);
    if (number === null) return;
    if (this.held === null) return this.hold(number);
    const held = this.held;
    if (held === number) this.putBack(number);
    else this.move(held, this.order.indexOf(number));
  }

  key(event) {
    const number = this.numberOf(event.target);
    if (number === null || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape" && this.held !== null) return this.putBack(number);
    const columns = this.puzzle.grid?.[1] ?? this.order.length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (!step) return;
    event.preventDefault();
    const place = this.order.indexOf(number);
    const next = place + step;
    const isBesides = Math.abs(step) > 1 || Math.floor(place / columns) === Math.floor(next / columns);
    if (next < 0 || next >= this.order.length || !isBesides) return;
    if (this.held === number) this.move(number, next, number);
    else this.at(next).focus();
  }

  press(event) {
    const piece = event.target.closest(".piece");
    if (!piece || event.button !== 0 || this.letGo) return; // one finger at a time
    const { pointerId, clientX, clientY } = event;
    let isDragged = false;
    const follow = (moved) => {
      if (moved.pointerId !== pointerId) return;
      const [x, y] = [moved.clientX - clientX, moved.clientY - clientY];
      isDragged ||= Math.hypot(x, y) > DRAG;
      if (!isDragged) return;
      piece.classList.add("dragged");
      piece.style.transform = `translate(${x}px, ${y}px)`;
    };
    const end = (ended) => {
      if (ended.pointerId !== pointerId) return;
      this.letGo();
      if (!isDragged) return;
      const number = Number(piece.dataset.number);
      const under = document.elementsFromPoint(ended.clientX, ended.clientY).map((found) => found.closest("li"));
      const place = [...this.list.children].findIndex((found) => under.includes(found) && found !== piece.parentElement);
      // Either draws all pieces anew, so that the click that ends a drag finds none to pick up.
      if (ended.type === "pointerup" && place >= 0) this.move(number, place);
      else this.putBack(number);
    };
    const watched = [["pointermove", follow], ["pointerup", end], ["pointercancel", end]];
    for (const [name, what] of watched) window.addEventListener(name, what);
    this.letGo = () => {
      for (const [name, what] of watched) window.removeEventListener(name, what);
      this.letGo = null;
    };
  }
}

function layOut(list, puzzle) {
  list.className = `board ${puzzle.grid ? "tiles" : puzzle.picture ? "points" : "clips"}`;
  if (!puzzle.grid) return;
  const [rows, columns] = puzzle.grid;
  const [width, height] = puzzle.pieces[0].size;
  list.style.setProperty("--columns", columns);
  list.style.setProperty("--aspect", (columns * width) / (rows * height));
}

function slot(piece) {
  const item = document.createElement("li");
  item.append(piece);
  return item;
}

function placeName(puzzle, place) {
  if (puzzle.grid) {
    const columns = puzzle.grid[1];
    return `in row ${Math.floor(place / columns) + 1}, column ${(place % columns) + 1}`;
  }
  const [first, last] = puzzle.picture ? ["nearest", "farthest"] : ["first", "last"];
  const count = puzzle.pieces.length;
  return place === 0 ? first : place === count - 1 ? last : `number ${place + 1} of ${count}`;
}

function pieceOf(puzzle, number, place, kind, isRight) {
  const piece = document.createElement(kind);
  piece.className = "piece";
  piece.dataset.number = number;
  const shown = puzzle.pieces[number - 1];
  const what = shown ? (shown.still ? "Clip" : "Tile") : "Point";
  const mark = isRight === undefined ? "" : isRight ? ", in its place" : ", not in its place";
  piece.setAttribute("aria-label", `${what} ${number}, ${placeName(puzzle, place)}${mark}`);
  if (kind !== "button") piece.setAttribute("role", "img");
  if (shown) piece.append(pictureOf(shown));
  else piece.append(String(number));
  if (isRight !== undefined) {
    const sign = document.createElement("span");
    sign.className = `mark ${isRight ? "right" : "wrong"}`;
    sign.textContent = isRight ? "✓" : "✗";
    piece.append(sign);
  }
  return piece;
}

/** A piece's picture; who wants no motion sees the frames of a clip side by side. */
function pictureOf(shown) {
  const image = document.createElement("img");
  [image.src, image.alt] = [shown.source, ""];
  image.draggable = false;
  if (!shown.still) return image;
  const picture = document.createElement("picture");
  const still = document.createElement("source");
  [still.media, still.srcset] = ["(prefers-reduced-motion: reduce)", shown.still];
  picture.append(still, image);
  return picture;
}

const verdict = (tried) => {
  const inPlace = tried.places.filter(Boolean).length;
  if (tried.answer === null) return `No answer: ${tried.reason}. Score ${tried.score.toFixed(2)}.`;
  const how = tried.right ? "All right" : `${inPlace} of ${tried.places.length} in place`;
  return `${how}. Score ${tried.score.toFixed(2)}.`;
};

function judge(place, tried) {
  place.textContent = verdict(tried);
  place.className = `verdict ${tried.right ? "right" : "wrong"}`;
}

function count(tally) {
  find("tallies").hidden = tally.person.tried + tally.model.tried === 0;
  const share = (sum, tried) => (tried ? `${Math.round((100 * sum) / tried)} %` : "–");
  for (const row of document.querySelectorAll("#tallies [data-who]")) {
    const { tried, right, places } = tally[row.dataset.who];
    const cells = [tried, `${right} (${share(right, tried)})`, share(places, tried)];
    [...row.querySelectorAll("td")].forEach((cell, index) => (cell.textContent = cells[index]));
  }
  const chance = (100 * tally.chance) / tally.person.tried;
  find("chance").textContent = tally.person.tried ? `${Number(chance.toPrecision(2))} %` : "–";
}

const board = new Board(find("board"));
board.onMove = () => {
  find("yours").textContent = "";
};

function showModel(tried) {
  const place = find("model");
  place.hidden = tried === null;
  if (tried === null) return;
  judge(find("theirs"), tried);
  find("reply").textContent = tried.reply;
  const list = find("other");
  layOut(list, board.puzzle);
  const order = tried.answer ?? [];
  list.replaceChildren(
    ...order.map((number, index) => slot(pieceOf(board.puzzle, number, index, "div", tried.places[index]))),
  );
}

function showPuzzle(puzzle) {
  find("table").hidden = false;
  const picture = find("picture");
  picture.hidden = !puzzle.picture;
  if (puzzle.picture) picture.src = puzzle.picture.source;
  const how = puzzle.grid ? "Drag a tile onto another to swap them" : "Drag them into order";
  const goal = puzzle.picture ? ", from the nearest to the farthest" : puzzle.grid ? "" : ", from the first to the last";
  find("help").textContent =
    `${how}${goal}. Or choose one, then its place. By keyboard: arrows walk, Enter picks up, arrows then move it.`;
  find("solve").hidden = true;
  find("yours").textContent = "";
  if (find("model")) showModel(null);
  if (find("ask")) {
    find("ask").dataset.run = Number(find("ask").dataset.run ?? 0) + 1; // what is asked of the last puzzle goes on
    find("ask").disabled = false;
  }
  board.begin(puzzle);
  tell(`${puzzle.name}: ${puzzle.pieces.length} pieces, one of ${puzzle.orders.toLocaleString("en")} orders is right.`);
}

/** Do what a button says, and say what is wrong; the button waits meanwhile, or until it is told not to. */
async function busy(button, words, work) {
  if (button.disabled) return;
  button.disabled = true;
  const run = (button.dataset.run = String(Number(button.dataset.run ?? 0) + 1));
  tell(words);
  try {
    await work();
  } catch (error) {
    tell(error.message, true);
  } finally {
    if (button.dataset.run === run) button.disabled = false;
  }
}

function choose() {
  const task = document.querySelector("input[name=task]:checked").value;
  for (const part of document.querySelectorAll(".of")) part.hidden = part.disabled = part.dataset.task !== task;
}

find("new").addEventListener("change", choose);
find("new").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  busy(event.target.querySelector("button"), "Cutting …", async () => {
    const size = [...form.values()].reduce((sum, value) => sum + (value.size ?? 0), 0);
    const most = Number(document.body.dataset.mostBytes);
    if (size > most) throw new Error(`More than ${most >> 20} MiB are too much; bring a smaller file.`);
    showPuzzle(await ask("begin", form));
    find("board").querySelector(".piece").focus();
  });
});

find("check").addEventListener("click", (event) =>
  busy(event.target, "Checking …", async () => {
    const puzzle = board.puzzle;
    const order = [...board.order];
    const answered = await ask("answer", JSON.stringify({ puzzle: puzzle.puzzle, answer: order }));
    count(answered.tally);
    if (puzzle !== board.puzzle) return;
    board.order = order;
    board.held = null;
    board.truth = answered.truth;
    board.draw(answered.places);
    find("solve").hidden = answered.right;
    judge(find("yours"), answered);
    if (find("model")) showModel(answered.model);
    tell(`${verdict(answered)}${answered.first ? "" : " Only your first answer counts."}`);
  }),
);

find("solve").addEventListener("click", () => {
  board.order = [...board.truth];
  board.held = null;
  board.onMove();
  board.draw(board.order.map(() => true));
  tell(`The right order is ${board.truth.join(", ")}.`);
});

find("ask")?.addEventListener("click", (event) => {
  const puzzle = board.puzzle;
  busy(event.target, "The model looks at it …", async () => {
    const { model, tally } = await ask("ask", JSON.stringify({ puzzle: puzzle.puzzle }));
    count(tally);
    if (puzzle !== board.puzzle) return;
    if (model) {
      showModel(model);
      tell(`The model: ${verdict(model)}`);
    } else tell("The model has answered. Check your own order to see what it said.");
  });
});

window.addEventListener("pageshow", choose);
choose();
ask("enter").then(
  ({ visit, tally }) => {
    sessionStorage.setItem("visit", visit);
    count(tally);
  },
  (error) => tell(error.message, true),
);
