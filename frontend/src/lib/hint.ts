// Small things that several parts do.

export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without https a browser has no clipboard for pages: the old way.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** A step of a colour-blind-safe row of four, always the same for the same name within one list. */
export function series(index: number): string {
  return `s${(index % 4) + 1}`;
}
