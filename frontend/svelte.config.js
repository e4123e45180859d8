// Configures Svelte to use runes in all components.
export default { compilerOptions: { runes: true } };
