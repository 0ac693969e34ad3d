// Requests to the server. Every failure is an Error with a sentence for people.

async function answer(response) {
  if (response.ok) return response.json();
  if (response.status === 401) {
    location.assign("/login");
  }
  let detail = `The server answered ${response.status}.`;
  try {
    detail = (await response.json()).detail || detail;
  } catch { /* no problem details */ }
  throw Object.assign(new Error(detail), {status: response.status});
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `retrieval serve` still running?");
  }
  return answer(response);
}

// The answer that came with the page, if it is to this request; it is given once.
export function cameWithPage(asked) {
  const place = document.getElementById("first");
  if (!place) return null;
  place.remove();
  const first = JSON.parse(place.textContent);
  return JSON.stringify(first.asked) === JSON.stringify(asked) ? first.found : null;
}

export function get(path, signal) {
  return request(path, {signal});
}

export function send(path, value, signal, method = "POST") {
  return request(path, {
    method,
    signal,
    headers: {"Content-Type": "application/json"},
    body: value === undefined ? undefined : JSON.stringify(value),
  });
}

export function upload(file) {
  return request("/api/v1/examples", {
    method: "POST",
    headers: {"Content-Type": "application/octet-stream"},
    body: file,
  });
}

export function thumbnail(id, size) {
  return `/api/v1/photos/${id}/thumbnail?size=${size}`;
}

export function original(id) {
  return `/api/v1/photos/${id}/original`;
}
