// Sends requests to the coordinator's dashboard API and turns failures into ApiError.

export const API = "/dashboard/api/v1";

export class ApiError extends Error {
  constructor(
    message: string,
    readonly code: string,
    readonly status: number,
  ) {
    super(message);
  }
  /** The coordinator has no such route; an older version may lack it. */
  get isMissing(): boolean {
    return this.status === 404;
  }
  get needsSignIn(): boolean {
    return this.status === 401 || this.status === 403;
  }
}

async function request(path: string, init: RequestInit): Promise<unknown> {
  let response: Response;
  try {
    response = await fetch(path.startsWith("/") ? path : `${API}/${path}`, { credentials: "same-origin", ...init });
  } catch (problem) {
    if (problem instanceof DOMException && problem.name === "AbortError") throw problem;
    throw new ApiError("cannot reach the coordinator", "unreachable", 0);
  }
  const text = await response.text();
  let body: unknown = null;
  try {
    body = text ? JSON.parse(text) : null;
  } catch {
    // Not JSON: an old coordinator, or a proxy in between.
  }
  if (response.ok && body !== null) return body;
  const error = body as { error?: string | { message?: string }; code?: string } | null;
  const message = typeof error?.error === "string" ? error.error : error?.error?.message;
  throw new ApiError(
    message ?? `the coordinator returned status ${response.status}`,
    error?.code ?? "",
    response.status || 0,
  );
}

export function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return request(path, signal ? { signal } : {}) as Promise<T>;
}

export function send<T>(path: string, body: unknown, method = "POST"): Promise<T> {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method, headers, body: JSON.stringify(body) }) as Promise<T>;
}

/** The message to show for a caught exception. */
export function errorText(problem: unknown): string {
  return problem instanceof Error ? problem.message : String(problem);
}

/** Builds a query string: `{a: "x", b: ""}` becomes "?a=x". */
export function query(parameters: Record<string, string | number | null | undefined>): string {
  const set = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return set.length ? `?${new URLSearchParams(set.map(([name, value]) => [name, String(value)]))}` : "";
}
