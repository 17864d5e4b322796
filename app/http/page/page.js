// Sends photos to /predict and, on demand, to /explain; polls /healthz while the page is visible.

const PERIOD = 1000; // milliseconds between two polls
const WINDOW = 5; // polls over which rates are averaged
const MEANINGS = {
  400: "This photo cannot be read",
  401: "The service requires an API key",
  413: "This photo is too large",
  415: "This is not a supported image format",
  422: "The request is invalid",
  504: "The service did not answer in time",
};

const [photoPicker, camera] = document.querySelectorAll("input[type=file]");
const at = (id) => document.getElementById(id);
const routeOf = (path) => new URL(path, import.meta.url); // works under any path prefix
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

let photo;
let key; // kept only in memory
let running = new AbortController();
let repeat;

class Refusal extends Error {
  constructor(message, { status, temporary = false } = {}) {
    super(message);
    this.status = status;
    this.temporary = temporary; // whether a retry may succeed
  }
}

/** Cancels the running work, then runs `work(signal)` and shows its progress, result or error. */
async function attempt(progress, work) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  repeat = () => attempt(progress, work);
  at("status").textContent = progress;
  at("complaint").textContent = "";
  at("again").hidden = at("access").hidden = true;
  try {
    const result = await work(signal);
    if (!signal.aborted) at("status").textContent = result;
  } catch (error) {
    if (!signal.aborted) showError(error);
  }
}

function showError(error) {
  at("status").textContent = "";
  at("complaint").textContent = error.message;
  at("again").hidden = !error.temporary;
  at("complaint").scrollIntoView({ block: "nearest" });
  at("access").hidden = error.status !== 401;
  if (error.status === 401) at("key").focus();
}

/** Sends the photo and returns the response; throws a `Refusal` with a message for users. */
async function send(path, signal) {
  await photo.slice(0, 1).arrayBuffer().catch(() => {
    throw new Refusal(`${photo.name} cannot be read; it may be a folder, or may have been moved.`);
  });
  const headers = { "Content-Type": "application/octet-stream" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const request = { method: "POST", body: photo, headers, signal };
  const response = await fetch(routeOf(path), request).catch(() => {
    throw new Refusal("The service cannot be reached.", { temporary: true });
  });
  if (response.ok) return response;
  const { status } = response;
  const { title = status, detail = response.statusText } = await response.json().catch(() => ({}));
  const wait = response.headers.get("Retry-After");
  if (wait) {
    const reason = `The service cannot classify the photo now (${title.toLowerCase()}).`;
    throw new Refusal(`${reason} Try again in ${wait} s.`, { status, temporary: true });
  }
  const text = detail.replace(/(\d+) bytes/g, (_, bytes) => megabytes(bytes));
  const meaning = MEANINGS[status] ?? "The service failed";
  throw new Refusal(`${meaning}: ${text}.`, { status, temporary: status >= 500 });
}

function predict(files) {
  at("answer").hidden = at("photo").hidden = at("no-preview").hidden = true;
  return attempt(`Classifying ${files[0]?.name ?? "the photo"} …`, async (signal) => {
    if (files.length !== 1) {
      throw new Refusal(`Choose one photo at a time; you chose ${files.length} files.`);
    }
    [photo] = files;
    showPicture(at("photo"), photo, at("no-preview"));
    const response = await send("predict", signal);
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
  const head = selectedOptions[0].textContent;
  return attempt("Drawing the attention …", async (signal) => {
    const response = await send(`explain?head=${value}`, signal);
    showPicture(at("attention"), await response.blob());
    at("attention").alt = `The photo, brightest where the attention is highest: ${head}`;
    return `The picture shows the attention of the model: ${head}`;
  });
}

/** Shows a picture, or the element `instead` if the browser does not support the format. */
function showPicture(image, blob, instead = {}) {
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  image.onload = () => {
    image.hidden = false;
    instead.hidden = true;
  };
  image.onerror = () => {
    image.hidden = true;
    instead.hidden = false;
  };
}

/** Shows rows `[name, length of the bar from 0 to 1, number]`. */
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

/** Polls the service while the page is visible. */
async function watch() {
  let history = [];
  for (;;) {
    while (document.visibilityState !== "visible") {
      history = [];
      await new Promise((resume) => {
        document.addEventListener("visibilitychange", resume, { once: true });
      });
    }
    history = await poll(history);
    await new Promise((resume) => setTimeout(resume, PERIOD));
  }
}

/** Shows the state of the service, with rates since the start of `history`; returns the history. */
async function poll(history) {
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
  const [since = now] = history;
  const images = now.images - since.images;
  if (images < 0) return [now]; // the service has been restarted
  setText("state", health.failure ?? health.state);
  setText("queue", health.queue_depth);
  setText("batch", images ? (images / (now.batches - since.batches)).toFixed(1) : "–");
  setText("throughput", history.length ? ((1000 * images) / (now.at - since.at)).toFixed(1) : "–");
  if (health.model) showModel(health.model);
  return [...history, now].slice(-WINDOW);
}

/** Sets a text only if it changes, because screen readers announce every assignment. */
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
