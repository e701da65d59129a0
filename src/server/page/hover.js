// The socket on which masks follow the pointer. A newer position replaces the one that waits, here
// and on the server, and the newest is never lost.

import { token } from "./api.js";

const HEAD = 48;
const RETRY = [250, 500, 1000, 2000, 4000];

export class Hover {
  #socket = null;
  #image = null;
  #tag = 0;
  #seq = 0;
  #ready = false;
  #flight = null; // position that the server works on
  #next = null; // position that waits for its turn
  #tries = 0;

  /** `onmask(answer, position)`, `onstate("encoding" | "ready" | "offline")`, `onfailure(error)` */
  constructor(handlers) {
    this.handlers = handlers;
  }

  /** Follows the pointer on this picture from now on; null for none. */
  open(image) {
    this.#image = image;
    this.#forget();
    if (!image) return;
    if (this.#socket?.readyState === WebSocket.OPEN) this.#hello();
    else if (!this.#socket) this.#connect();
  }

  /** A new position in pixels of the picture; `stamp` is the time of its event. */
  move(x, y, index, stamp) {
    this.#next = { x, y, index, stamp };
    this.#send();
  }

  /** No position is wanted any more. */
  leave() {
    this.#next = null;
    if (this.#flight) this.#flight.stale = true;
  }

  #forget() {
    this.#ready = false;
    this.#tag = 0;
    this.#flight = null;
    this.#next = null;
  }

  #connect() {
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/v1/hover`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      if (this.#image) this.#hello();
    };
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.#told(JSON.parse(data)) : this.#answered(data));
    socket.onclose = () => {
      const next = this.#next;
      this.#socket = null;
      this.#forget();
      this.#next = next; // asked again when the connection is back
      this.handlers.onstate("offline");
      setTimeout(() => this.#image && !this.#socket && this.#connect(), RETRY[Math.min(this.#tries++, RETRY.length - 1)]);
    };
    this.#socket = socket;
  }

  #hello() {
    this.handlers.onstate("encoding");
    this.#socket.send(JSON.stringify(token() ? { image: this.#image, token: token() } : { image: this.#image }));
  }

  #told(message) {
    if (message.opened) {
      this.#tag = message.tag;
    } else if (message.ready === this.#tag) {
      this.#tries = 0;
      this.#ready = true;
      this.handlers.onstate("ready");
      this.#send();
    } else if (message.error) {
      this.#flight = null;
      this.handlers.onfailure(message.error);
      this.#send();
    }
  }

  #send() {
    if (!this.#ready || this.#flight || !this.#next) return;
    const position = this.#next;
    this.#next = null;
    this.#flight = position;
    position.seq = ++this.#seq;
    const view = new DataView(new ArrayBuffer(20));
    view.setUint8(0, 1);
    view.setUint8(1, position.index ?? 255);
    view.setUint32(4, position.seq, true);
    view.setUint32(8, this.#tag, true);
    view.setFloat32(12, position.x, true);
    view.setFloat32(16, position.y, true);
    this.#socket.send(view.buffer);
  }

  #answered(buffer) {
    const view = new DataView(buffer);
    const position = this.#flight;
    if (view.getUint32(8, true) !== this.#tag || view.getUint32(4, true) !== position?.seq) return;
    this.#flight = null;
    this.#send(); // the server works while this answer is painted
    if (position.stale) return;
    const short = (at) => view.getUint16(at, true);
    this.handlers.onmask({
      index: view.getUint8(1),
      width: short(12),
      height: short(14),
      crop: [short(16), short(18), short(20), short(22)],
      ious: [24, 28, 32].map((at) => view.getFloat32(at, true)),
      serverMs: (view.getUint32(40, true) + view.getUint32(44, true)) / 1000,
      levels: new Uint8Array(buffer, HEAD),
    }, position);
  }
}
