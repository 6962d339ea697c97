// Requests to the REST API of this daemon.

/** All paths are relative to the page, so that a base path of a proxy is kept. */
export const root = new URL("api/v1/", new URL(".", document.baseURI));

/** An error of the API, or of the connection to it. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? "the daemon sent no answer");
    this.status = status;
    this.kind = body.kind;
    this.hint = body.hint;
  }
}

let signedOut = () => {};

/** Called when an answer says that the session has ended. */
export function onSignedOut(handler) {
  signedOut = handler;
}

export async function request(method, path, body, options = {}) {
  const headers = { ...options.headers };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, root), {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: options.signal,
      cache: "no-store",
      credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "the daemon does not answer", hint: "check that it runs, and the connection to it" });
  }
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => ({ detail: `the answer is not readable (status ${response.status})` }));
  if (response.ok) return answer;
  if (response.status === 401 && path !== "session") signedOut();
  throw new Problem(response.status, answer);
}

export const get = (path, options) => request("GET", path, undefined, options);
export const post = (path, body, options) => request("POST", path, body, options);
export const patch = (path, body) => request("PATCH", path, body);
export const put = (path, body) => request("PUT", path, body);
export const remove = (path) => request("DELETE", path);

/** The path with a query of all values that are set. */
export function withQuery(path, values) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined && value !== null) query.set(name, value);
  }
  return `${path}?${query}`;
}

const encodedPath = (path) => path.split("/").map(encodeURIComponent).join("/");

/** The URL of a file's bytes. */
export const contentUrl = (importId, path) =>
  new URL(`imports/${encodeURIComponent(importId)}/content/${encodedPath(path)}`, root).href;

export const categoryPath = (name) => `categories/${encodedPath(name)}`;
