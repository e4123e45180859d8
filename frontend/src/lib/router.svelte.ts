// Keeps the state of the view in the URL, so that every view can be linked to, reopened, and left with the Back button.

export const RANGES = ["1h", "24h", "7d", "30d"] as const;
export type Range = (typeof RANGES)[number];

const ROOT = "/dashboard";
/** Served at the root itself. */
const FIRST_PAGE = "overview";
const REQUESTS = `${ROOT}/requests/`;

class Router {
  /** The name of the current page, as in the URL. */
  page = $state(FIRST_PAGE);
  /** The id of the request whose drawer is open; "" for none. */
  request = $state("");
  search = $state(new URLSearchParams());
  #hasNavigated = false;

  constructor() {
    this.#readLocation();
    addEventListener("popstate", () => this.#readLocation());
  }

  get range(): Range {
    const range = this.search.get("range") as Range | null;
    return range && RANGES.includes(range) ? range : "24h";
  }

  /** A query parameter; "" where it is not set. */
  param(name: string): string {
    return this.search.get(name) ?? "";
  }

  set(changes: Record<string, string>): void {
    const next = new URLSearchParams(this.search);
    for (const [name, value] of Object.entries(changes)) {
      if (value) next.set(name, value);
      else next.delete(name);
    }
    const text = next.toString();
    history.replaceState(null, "", location.pathname + (text ? `?${text}` : ""));
    this.search = next;
  }

  go(href: string): void {
    if (href === location.pathname + location.search) return;
    history.pushState(null, "", href);
    this.#hasNavigated = true;
    const before = this.page;
    this.#readLocation();
    if (this.page !== before) scrollTo(0, 0);
  }

  closeDrawer(): void {
    if (!this.request) return;
    if (this.#hasNavigated) history.back();
    else this.go(this.hrefOf(this.page));
  }

  hrefOf(page: string): string {
    const path = page === FIRST_PAGE ? ROOT : `${ROOT}/${page}`;
    return this.range === "24h" ? path : `${path}?range=${this.range}`;
  }

  #readLocation(): void {
    const path = location.pathname.replace(/\/+$/, "");
    if (path.startsWith(REQUESTS)) {
      // The drawer opens over the current page, which does not change.
      this.request = decodeURIComponent(path.slice(REQUESTS.length));
      return;
    }
    this.request = "";
    this.page = path.slice(ROOT.length + 1) || FIRST_PAGE;
    this.search = new URLSearchParams(location.search);
  }
}

export const router = new Router();

export function requestHref(id: string): string {
  return REQUESTS + encodeURIComponent(id);
}

/** Handles plain clicks on links within the dashboard without reloading the page; the browser handles all others. */
export function followLinks(event: MouseEvent): void {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey)
    return;
  const link = (event.target as Element | null)?.closest("a");
  if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
  if (!link.pathname.startsWith(ROOT) || link.pathname.startsWith(`${ROOT}/api`) || link.hash) return;
  event.preventDefault();
  router.go(link.pathname + link.search);
}
