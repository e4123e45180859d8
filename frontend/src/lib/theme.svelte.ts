// Applies the light, dark or system theme and remembers the choice in this browser.

export type Theme = "auto" | "light" | "dark";
export const THEMES: Theme[] = ["auto", "light", "dark"];
const STORAGE_KEY = "herd-theme";

class ThemeState {
  choice = $state<Theme>((localStorage.getItem(STORAGE_KEY) as Theme | null) ?? "auto");
  /** Increases whenever colors change, so that canvases are redrawn. */
  version = $state(0);

  constructor() {
    this.#apply();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (this.version += 1));
  }

  set(choice: Theme): void {
    this.choice = choice;
    localStorage.setItem(STORAGE_KEY, choice);
    this.#apply();
  }

  #apply(): void {
    if (this.choice === "auto") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = this.choice;
    this.version += 1;
  }
}

export const theme = new ThemeState();

/** The computed value of a color variable: a canvas can read neither var() nor light-dark(). */
export function computedColor(name: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const color = getComputedStyle(probe).color;
  probe.remove();
  return color;
}

export const prefersReducedMotion = (): boolean => matchMedia("(prefers-reduced-motion: reduce)").matches;
