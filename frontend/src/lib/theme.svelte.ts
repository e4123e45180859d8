// Light, dark, or as the system has it; and the seconds that "ago" counts with.

export type Theme = "auto" | "light" | "dark";
const KEY = "herd-theme";

class Look {
  theme = $state<Theme>((localStorage.getItem(KEY) as Theme | null) ?? "auto");
  /** Changes when colours do: canvases are drawn anew. */
  edition = $state(0);
  now = $state(Date.now() / 1000);

  constructor() {
    this.#apply();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (this.edition += 1));
    setInterval(() => document.hidden || (this.now = Date.now() / 1000), 1000);
  }

  set(theme: Theme): void {
    this.theme = theme;
    localStorage.setItem(KEY, theme);
    this.#apply();
  }

  #apply(): void {
    if (this.theme === "auto") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = this.theme;
    this.edition += 1;
  }
}

export const look = new Look();

/** A colour variable as a canvas understands it: canvases can read neither var() nor light-dark(). */
export function colour(name: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

export const isCalm = (): boolean => matchMedia("(prefers-reduced-motion: reduce)").matches;
