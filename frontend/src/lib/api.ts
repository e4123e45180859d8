// Asking the coordinator, and what can go wrong with that.

export const API = "/dashboard/api/v1";

export class Trouble extends Error {
  constructor(
    message: string,
    readonly code: string,
    readonly status: number,
  ) {
    super(message);
  }
  /** The coordinator does not know this path (yet). */
  get isMissing(): boolean {
    return this.status === 404 && this.code !== "unknown_request";
  }
  get needsLogin(): boolean {
    return this.status === 401 || this.status === 403;
  }
}

async function ask(path: string, init: RequestInit): Promise<unknown> {
  let response: Response;
  try {
    response = await fetch(path.startsWith("/") ? path : `${API}/${path}`, { credentials: "same-origin", ...init });
  } catch (problem) {
    if (problem instanceof DOMException && problem.name === "AbortError") throw problem;
    throw new Trouble("the coordinator does not answer", "unreachable", 0);
  }
  const text = await response.text();
  let told: unknown = null;
  try {
    told = text ? JSON.parse(text) : null;
  } catch {
    // Not JSON: an old coordinator, or something between.
  }
  if (response.ok && told !== null) return told;
  const said = told as { error?: string | { message?: string }; code?: string } | null;
  const message = typeof said?.error === "string" ? said.error : said?.error?.message;
  throw new Trouble(message ?? `the coordinator answered ${response.status}`, said?.code ?? "", response.status || 0);
}

export function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return ask(path, signal ? { signal } : {}) as Promise<T>;
}

export function send<T>(path: string, body: unknown, method = "POST"): Promise<T> {
  return ask(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }) as Promise<T>;
}

/** `{a: "x", b: ""}` -> "?a=x" */
export function query(parts: Record<string, string | number | null | undefined>): string {
  const kept = Object.entries(parts).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return kept.length ? `?${new URLSearchParams(kept.map(([name, value]) => [name, String(value)]))}` : "";
}
