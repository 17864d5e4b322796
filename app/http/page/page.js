// A photo goes to /predict and, on demand, to /explain; /healthz is asked while somebody looks.

const PERIOD = 1000; // milliseconds between two looks at the service
const WINDOW = 5; // seconds, about, that rates are taken over
const MEANINGS = {
  400: "This photo cannot be read",
  401: "The service needs an API key",
  413: "This photo is too large",
  415: "This is no photo that the service can read",
  422: "The service cannot do this",
  504: "The service took too long",
};

const [photoPicker, camera] = document.querySelectorAll("input[type=file]");
const at = (id) => document.getElementById(id);
const routeOf = (path) => new URL(path, import.meta.url); // beside this file, wherever that is
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

let photo;
let key; // in memory alone: gone with the page
let running = new AbortController();
let repeat;

class Refusal extends Error {
  constructor(message, { status, passing = false } = {}) {
    super(message);
    this.status = status;
    this.passing = passing; // whether another try may end better
  }
}

/** Runs `work(signal)` instead of what is under way; says what is done, and what went wrong. */
async function attempt(doing, work) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  repeat = () => attempt(doing, work);
  at("status").textContent = doing;
  at("complaint").textContent = "";
  at("again").hidden = at("access").hidden = true;
  try {
    const done = await work(signal);
    if (!signal.aborted) at("status").textContent = done;
  } catch (error) {
    if (!signal.aborted) complain(error);
  }
}

function complain(error) {
  at("status").textContent = "";
  at("complaint").textContent = error.message;
  at("again").hidden = !error.passing;
  at("complaint").scrollIntoView({ block: "nearest" });
  at("access").hidden = error.status !== 401;
  if (error.status === 401) at("key").focus();
}

/** The answer to the photo; throws a `Refusal` that a person understands. */
async function ask(path, signal) {
  await photo.slice(0, 1).arrayBuffer().catch(() => {
    throw new Refusal(`${photo.name} cannot be read; is it a file, and still there?`);
  });
  const headers = { "Content-Type": "application/octet-stream" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const request = { method: "POST", body: photo, headers, signal };
  const response = await fetch(routeOf(path), request).catch(() => {
    throw new Refusal("The service cannot be reached.", { passing: true });
  });
  if (response.ok) return response;
  const { status } = response;
  const { title = status, detail = response.statusText } = await response.json().catch(() => ({}));
  const wait = response.headers.get("Retry-After");
  if (wait) {
    const why = `The service cannot take the photo now (${title.toLowerCase()}).`;
    throw new Refusal(`${why} Try again in ${wait} s.`, { status, passing: true });
  }
  const told = detail.replace(/(\d+) bytes/g, (_, bytes) => megabytes(bytes));
  const meaning = MEANINGS[status] ?? "The service failed";
  throw new Refusal(`${meaning}: ${told}.`, { status, passing: status >= 500 });
}

function predict(files) {
  at("answer").hidden = at("photo").hidden = true;
  return attempt(`Looking at ${files[0]?.name ?? "it"} …`, async (signal) => {
    if (files.length !== 1) {
      throw new Refusal(`One photo at a time, please; there were ${files.length} files in this.`);
    }
    [photo] = files;
    showPicture(at("photo"), photo);
    const response = await ask("predict", signal);
    const { predictions } = await response.json();
    showRows("classes", predictions.map(({ label, score }) => [label, score, percent(score)]));
    showPhases(response.headers.get("Server-Timing"));
    at("attention").hidden = true;
    at("answer").hidden = false;
    const [best] = predictions;
    return `${photo.name}, ${megabytes(photo.size)}: ${best.label}, ${percent(best.score)}`;
  });
}

function explain() {
  const { value, selectedOptions } = at("head");
  const whose = selectedOptions[0].textContent;
  return attempt("Looking where the model looked …", async (signal) => {
    const response = await ask(`explain?head=${value}`, signal);
    showPicture(at("attention"), await response.blob());
    at("attention").alt = `The photo, brightest where the model looked most: ${whose}`;
    return `The picture shows where the model looked: ${whose}`;
  });
}

/** A picture that the browser may not know how to show: then it shows none. */
function showPicture(image, blob) {
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  image.onload = () => (image.hidden = false);
  image.onerror = () => (image.hidden = true);
}

/** Rows `[name, share of the bar, number]`. */
function showRows(id, rows) {
  at(id).replaceChildren(
    ...rows.map(([name, share, number]) => {
      const row = at("row").content.cloneNode(true);
      const [label, figure, bar] = row.querySelectorAll("span");
      label.textContent = name;
      figure.textContent = number;
      bar.style.setProperty("--share", share);
      return row;
    }),
  );
}

function showPhases(serverTiming) {
  const phases = serverTiming.split(", ").map((entry) => entry.split(";dur="));
  const total = phases.at(-1)[1];
  showRows("phases", phases.map(([name, ms]) => [name, ms / total, `${(+ms).toFixed(1)} ms`]));
}

function showModel(model) {
  const { name, version, num_classes, backend, device, precision, heads } = model;
  at("model").textContent =
    `${name} ${version}, ${num_classes} classes; ${backend} on ${device} in ${precision}`;
  const choice = at("head");
  if (choice.length === heads + 1) return;
  choice.replaceChildren(
    choice[0], // the mean
    ...Array.from({ length: heads }, (_, head) => new Option(`head ${head + 1} of ${heads}`, head)),
  );
}

/** Watches the service for as long as the page is there, and asks only while it is seen. */
async function watch() {
  let seen = [];
  for (;;) {
    while (document.visibilityState !== "visible") {
      seen = [];
      await new Promise((resume) => {
        document.addEventListener("visibilitychange", resume, { once: true });
      });
    }
    seen = await look(seen);
    await new Promise((resume) => setTimeout(resume, PERIOD));
  }
}

/** Shows how the service does, with rates since the first of `seen`; returns what was seen now. */
async function look(seen) {
  let health;
  try {
    const signal = AbortSignal.timeout(5 * PERIOD);
    health = await (await fetch(routeOf("healthz"), { signal })).json();
  } catch {
    setText("state", "not reachable");
    for (const id of ["queue", "batch", "throughput"]) setText(id, "–");
    return [];
  }
  const now = { at: performance.now(), images: health.images_total, batches: health.batches_total };
  const [since = now] = seen;
  const images = now.images - since.images;
  if (images < 0) return [now]; // it was started anew
  setText("state", health.failure ?? health.state);
  setText("queue", health.queue_depth);
  setText("batch", images ? (images / (now.batches - since.batches)).toFixed(1) : "–");
  setText("throughput", seen.length ? ((1000 * images) / (now.at - since.at)).toFixed(1) : "–");
  if (health.model) showModel(health.model);
  return [...seen, now].slice(-WINDOW);
}

/** Leaves what is there already alone: who listens is told of changes only. */
function setText(id, text) {
  if (at(id).textContent !== String(text)) at(id).textContent = text;
}

for (const input of [photoPicker, camera]) {
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = ""; // so that the same photo can be chosen again
    if (files.length) predict(files);
  });
}
addEventListener("paste", ({ clipboardData }) => {
  if (clipboardData.files.length) predict([...clipboardData.files]);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove("dragging");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  predict([...event.dataTransfer.files]);
});
at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  key = at("key").value;
  repeat();
});
at("again").addEventListener("click", () => repeat());
at("explain").addEventListener("click", explain);
watch();
