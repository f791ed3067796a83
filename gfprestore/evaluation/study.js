"use strict";

// A random order of some items (Fisher and Yates); `random` gives numbers from 0 up to 1.
function shuffled(items, random) {
  const order = [...items];
  for (let last = order.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}

function secureRandom() {
  const numbers = new Uint32Array(1);
  crypto.getRandomValues(numbers);
  return numbers[0] / 4294967296;
}

// The questions of one voter, with random sides.
function startSession(study, random, now) {
  const asked = shuffled(study.questions, random).slice(0, study.perVoter).map(question => ({
    question: question.question, original: question.original, sides: shuffled(question.images, random),
  }));
  const voter = Array.from({ length: 16 }, () => Math.floor(random() * 16).toString(16)).join("");
  return { study: study.study, voter, started: now, asked, votes: [] };
}

function vote(session, side, milliseconds) {
  const asked = session.asked[session.votes.length];
  if (!asked) return;
  session.votes.push({
    question: asked.question, left: asked.sides[0], right: asked.sides[1], chosen: asked.sides[side],
    milliseconds: Math.round(milliseconds),
  });
}

function votesFile(session, now) {
  return {
    format: "gfprestore-votes", version: 1, study: session.study, voter: session.voter,
    started: session.started, saved: now, votes: session.votes,
  };
}

// Restores an interrupted session if it belongs to this study and is intact.
function storedSession(study, text) {
  try {
    const session = JSON.parse(text);
    const known = new Set(study.questions.map(question => question.question));
    const fits = session.study === study.study && session.asked.every(asked => known.has(asked.question));
    return fits && session.votes.length <= session.asked.length ? session : null;
  } catch { return null; }
}

function run(document, study) {
  const element = id => document.getElementById(id);
  const storageName = `gfprestore-study-${study.study}`;
  const stored = () => { try { return localStorage.getItem(storageName); } catch { return null; } };
  const store = () => { try { localStorage.setItem(storageName, JSON.stringify(session)); } catch { /* private mode */ } };
  let session = storedSession(study, stored()) ?? startSession(study, secureRandom, new Date().toISOString());
  let shownAt = 0;
  let saved = 0;

  function show() {
    const count = session.votes.length, asked = session.asked[count];
    element("progress").textContent = `${count} of ${session.asked.length} answered`;
    element("undo").disabled = count === 0;
    element("save").disabled = count === 0;
    element("question").hidden = !asked;
    element("done").hidden = Boolean(asked);
    if (!asked) { element("save").focus(); return; }
    asked.sides.forEach((image, side) => { element(side ? "right" : "left").src = `images/${image}.png`; });
    if (asked.original) element("original").src = `images/${asked.original}.png`;
    shownAt = performance.now();
  }

  function choose(side) {
    if (session.votes.length >= session.asked.length) return;
    vote(session, side, performance.now() - shownAt);
    store();
    show();
  }

  function undo() {
    session.votes.pop();
    store();
    show();
  }

  function save() {
    const text = JSON.stringify(votesFile(session, new Date().toISOString()), null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = `votes-${session.voter}.json`;
    link.click();
    saved = session.votes.length;
  }

  element("choose-left").addEventListener("click", () => choose(0));
  element("choose-right").addEventListener("click", () => choose(1));
  element("undo").addEventListener("click", undo);
  element("save").addEventListener("click", save);
  document.addEventListener("keydown", event => {
    if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    const action = { ArrowLeft: () => choose(0), 1: () => choose(0), ArrowRight: () => choose(1), 2: () => choose(1),
      Backspace: undo }[event.key];
    if (action) { event.preventDefault(); action(); }
  });
  window.addEventListener("beforeunload", event => {
    if (session.votes.length > saved) event.preventDefault();
  });
  show();
}

if (typeof document !== "undefined") run(document, JSON.parse(document.getElementById("study").textContent));
