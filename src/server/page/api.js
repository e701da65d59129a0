// Requests to the server.

/** A failure that the server explains. */
export class Failure extends Error {
  constructor(status, { code = "network", message = "", advice = "" } = {}) {
    super(message);
    Object.assign(this, { status, code, advice });
  }
}

const KEY = "sam3.token";

// The token comes once in the fragment, which is not sent anywhere, and leaves the address at once.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem(KEY, given);
  history.replaceState(null, "", location.pathname);
}

export const token = () => sessionStorage.getItem(KEY);
export const setToken = (value) => sessionStorage.setItem(KEY, value);

/** Called when the server wants a token; resolves when there is one. */
let askForToken = async () => {};
export const onUnauthorized = (ask) => { askForToken = ask; };

async function request(method, path, { body, type, signal, accept } = {}, again = true) {
  const headers = {};
  if (token()) headers.authorization = `Bearer ${token()}`;
  if (type) headers["content-type"] = type;
  if (accept) headers.accept = accept;
  let response;
  try {
    response = await fetch(path, { method, body, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0);
  }
  if (response.ok) return response;
  const text = await response.text();
  let explained;
  try {
    explained = JSON.parse(text).error;
  } catch {
    explained = { code: "unreadable", message: `${response.status} ${response.statusText}` };
  }
  if (response.status === 401 && again) {
    await askForToken();
    return request(method, path, { body, type, signal, accept }, false);
  }
  if (response.status === 429 && again) {
    const seconds = Number(response.headers.get("retry-after")) || 1;
    await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(seconds, 10)));
    return request(method, path, { body, type, signal, accept }, false);
  }
  throw new Failure(response.status, explained);
}

const json = (body) => ({ body: JSON.stringify(body), type: "application/json" });

export const model = async () => (await request("GET", "/api/v1/model")).json();

export const upload = async (file, signal) =>
  (await request("POST", "/api/v1/images", { body: file, type: file.type || "application/octet-stream", signal })).json();

export const state = async (id) => (await request("GET", `/api/v1/images/${id}`)).json();

/** Forgets a picture, so that its encode stops. */
export const forget = (id) => request("DELETE", `/api/v1/images/${id}`).catch(() => {});

export const segment = async (id, prompt, signal) =>
  (await request("POST", `/api/v1/images/${id}/segment`, { ...json(prompt), signal })).json();

export const exportZip = async (id, objects) =>
  (await request("POST", `/api/v1/images/${id}/export`, json(objects))).blob();

/** Everything there seems to be; `progress(done, total)` is called on the way. */
export async function everything(id, options, progress, signal) {
  const asked = { ...json(options), accept: "text/event-stream", signal };
  const response = await request("POST", `/api/v1/images/${id}/everything`, asked);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Failure(0);
    buffer += value;
    const events = buffer.split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const lines = event.split("\n");
      const field = (name) => lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trim()).join("\n");
      const name = field("event"), data = field("data");
      if (name === "progress") {
        const { done: steps, total } = JSON.parse(data);
        progress(steps, total);
      } else if (name === "done") {
        return JSON.parse(data);
      } else if (name === "error") {
        throw new Failure(500, JSON.parse(data).error);
      }
    }
  }
}
