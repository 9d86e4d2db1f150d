// Where answers come from: a file that holds them, a server, a notebook's kernel; and how arrays are read.

/** Arguments as the key of a stored answer: JSON with sorted names. */
function key(args) {
  const sorted = (value) => (value && typeof value === "object" && !Array.isArray(value)
    ? Object.fromEntries(Object.keys(value).sort().map((name) => [name, sorted(value[name])])) : value);
  return JSON.stringify(sorted(args));
}

/** ask(kind, args) of a file: its stored answers; one about all prompts is cut to the prompt asked for. */
function storedAsk(stored) {
  return async (kind, args = {}) => {
    const { prompt, ...rest } = args;
    const exact = stored[kind]?.[key(args)];
    if (exact) return exact;
    const whole = stored[kind]?.[key(rest)];
    if (!whole) return { error: "This file does not hold the answer. `interp serve` asks the model." };
    return prompt === undefined ? whole : atPrompt(whole, prompt);
  };
}

/** ask(kind, args) of a server at the page's own address. A newer question takes the place of an older one. */
function servedAsk(address) {
  return async (kind, args = {}) => {
    try {
      const reply = await fetch(`${address}/ask`, { method: "POST", body: JSON.stringify({ kind, args }),
        headers: { "Content-Type": "application/json" } });
      return await reply.json();
    } catch {
      return { error: "The server does not answer. Is `interp serve` still running?" };
    }
  };
}

/** ask(kind, args) of a notebook's kernel, by the messages of anywidget's model. */
function messageAsk(model) {
  const waiting = new Map();
  let last = 0;
  model.on("msg:custom", ({ id, answer }) => { waiting.get(id)?.(answer); waiting.delete(id); });
  return (kind, args = {}) => new Promise((done) => {
    waiting.set(++last, done);
    model.send({ id: last, kind, args });
  });
}

/** An answer about all prompts, for one of them. */
function atPrompt(answer, prompt) {
  if (Array.isArray(answer)) return answer.map((part) => atPrompt(part, prompt));
  if (answer === null || typeof answer !== "object") return answer;
  if (answer.by === "prompt") {
    if (answer.list) return answer.list[prompt];
    const bytes = bytesOf(answer), size = bytes.length / answer.shape[0];
    const { by, data, ...rest } = answer;
    return { ...rest, shape: answer.shape.slice(1), bytes: bytes.subarray(prompt * size, (prompt + 1) * size) };
  }
  return Object.fromEntries(Object.entries(answer).map(([name, part]) => [name, atPrompt(part, prompt)]));
}

function bytesOf(packed) {
  return packed.bytes ?? Uint8Array.from(atob(packed.data), (letter) => letter.charCodeAt(0));
}

/** The numbers of a packed array, in one row (see interp/live/_arrays.py). 0 above a lower triangle. */
function unpack(packed) {
  const bytes = bytesOf(packed), view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const read = {
    u1: (i) => (bytes[i] === 255 ? NaN : bytes[i]), f2: (i) => half(view.getUint16(2 * i, true)), f4: (i) => view.getFloat32(4 * i, true),
  }[packed.packed];
  const count = bytes.length / Number(packed.packed[1]);
  const values = Array.from({ length: count }, (_, i) => packed.offset + packed.scale * read(i));
  if (!packed.lower) return values;
  const n = packed.shape.at(-1), square = new Array((count / ((n * (n + 1)) / 2)) * n * n).fill(0);
  let next = 0;
  for (let start = 0; start < square.length; start += n * n)
    for (let r = 0; r < n; r++) for (let c = 0; c <= r; c++) square[start + r * n + c] = values[next++];
  return square;
}

/** A float16 as a number. */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, rest = bits & 1023;
  if (exponent === 31) return rest ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + rest / 1024) : 2 ** -14 * (rest / 1024));
}
