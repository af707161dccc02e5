// A file that the server made, given to the browser to save; it never lies on the server's disk.
watch('value', () => {
  const file = props.value;
  if (!file || !file.data) return;
  const bytes = Uint8Array.from(atob(file.data), (c) => c.charCodeAt(0));
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([bytes], { type: file.media }));
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});
