// Where we are: the address is the state, so that every view can be linked to, gone back from, and opened in another tab.

export const TABS = [
  { path: "/dashboard", name: "overview", title: "Fleet", icon: "fleet" },
  { path: "/dashboard/trends", name: "trends", title: "Trends", icon: "trends" },
  { path: "/dashboard/models", name: "models", title: "Models", icon: "models" },
  { path: "/dashboard/apps", name: "apps", title: "Apps", icon: "apps" },
  { path: "/dashboard/benchmarks", name: "benchmarks", title: "Benchmarks", icon: "benchmarks" },
  { path: "/dashboard/health", name: "health", title: "Health", icon: "health" },
  { path: "/dashboard/recommendations", name: "recommendations", title: "Recommendations", icon: "recommendations" },
  { path: "/dashboard/settings", name: "settings", title: "Settings", icon: "settings" },
  { path: "/dashboard/playground", name: "playground", title: "Playground", icon: "playground" },
] as const;

export type TabName = (typeof TABS)[number]["name"];
export const RANGES = ["1h", "24h", "7d", "30d"] as const;
export type Range = (typeof RANGES)[number];

const DRAWER = "/dashboard/requests/";

class Place {
  tab = $state<TabName>("overview");
  /** The request whose drawer is open. */
  request = $state("");
  search = $state(new URLSearchParams());
  #cameFromHere = false;

  constructor() {
    this.#read();
    addEventListener("popstate", () => this.#read());
  }

  get range(): Range {
    const wanted = this.search.get("range") as Range | null;
    return wanted && RANGES.includes(wanted) ? wanted : "24h";
  }

  /** A parameter of the address; "" where it is not set. */
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
    this.#cameFromHere = true;
    const before = this.tab;
    this.#read();
    if (this.tab !== before) scrollTo(0, 0);
  }

  closeDrawer(): void {
    if (!this.request) return;
    if (this.#cameFromHere) history.back();
    else this.go(this.hrefOf(this.tab));
  }

  hrefOf(name: TabName): string {
    const path = TABS.find((tab) => tab.name === name)?.path ?? "/dashboard";
    return this.range === "24h" ? path : `${path}?range=${this.range}`;
  }

  #read(): void {
    const path = location.pathname.replace(/\/+$/, "");
    if (path.startsWith(DRAWER)) {
      // The page below stays as it is.
      this.request = decodeURIComponent(path.slice(DRAWER.length));
      return;
    }
    this.request = "";
    this.tab = TABS.find((tab) => tab.path === path)?.name ?? "overview";
    this.search = new URLSearchParams(location.search);
  }
}

export const place = new Place();

export function requestHref(id: string): string {
  return DRAWER + encodeURIComponent(id);
}

/** Plain clicks on our own links change the page without loading it anew; everything else is the browser's. */
export function followLinks(event: MouseEvent): void {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = (event.target as Element | null)?.closest("a");
  if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
  if (!link.pathname.startsWith("/dashboard") || link.pathname.startsWith("/dashboard/api") || link.hash) return;
  event.preventDefault();
  place.go(link.pathname + link.search);
}
